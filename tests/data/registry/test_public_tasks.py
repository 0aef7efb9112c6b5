"""Registered tasks: each on data made for the test, the formats of T5's paper, few-shot tasks, tables."""

import json

import fsspec
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import splits as tfds_splits

from palm_jax.data.registry import public_tasks, seqio_chains, task_tables, tasks
from palm_jax.data.registry.task_metrics import accuracy, entity_f1, text_metric
from palm_jax.data.supervised.labelled_text import LabelledTable
from palm_jax.data.supervised.tagged_text import TaggedTable
from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.errors import UserError

HAS_T5 = public_tasks.add_in_t5_format()
SPLITS = ('train', 'validation', 'test', 'validation_matched', 'test_matched', 'translate-train')
TFDS = [
    name
    for name in sorted(seqio.TaskRegistry.names())
    if isinstance(seqio.TaskRegistry.get(name).source, seqio.TfdsDataSource)
]
GLUE = ('cola', 'sst2', 'mrpc', 'qqp', 'stsb', 'mnli', 'mnli_matched', 'mnli_mismatched', 'qnli', 'rte', 'wnli', 'ax')
SUPER_GLUE = ('boolq', 'cb', 'copa', 'multirc', 'record', 'rte', 'wic', 'wsc', 'axb', 'axg')


def prepared(name):
    """Return a task as if TFDS had its data; without, it has no splits."""
    task = seqio.TaskRegistry.get(name)
    known = [
        tfds_splits.SplitInfo(name=split, shard_lengths=[200], num_bytes=0, filename_template=None) for split in SPLITS
    ]
    task.source.tfds_dataset.builder.info.set_splits(tfds_splits.SplitDict(known))
    return task


def rows(name, split, examples=None):
    """Return the first rows of a task on random data, or on given examples."""
    given = None if examples is None else lambda self, **_: tf.data.Dataset.from_tensor_slices(examples)
    task = prepared(name)
    features = tuple(f for f in ('inputs', 'targets') if f in task.output_features)
    policy = tfds.testing.MockPolicy.USE_CODE
    with tfds.testing.mock_data(num_examples=3, policy=policy, as_dataset_fn=given):
        return list(tasks.rows(name, split, features))


def test_all_are_registered():
    wanted = ['c4_en', 'lm1b', 'wikipedia_en', 'wiki40b_en', 'wiki40b_zh_cn', 'github_code', 'conll2003', 'paws_x_zh']
    wanted += ['wikiann_zh', 'xquad_zh', 'kdconv_film', 'python_stdlib', 'stdlib_tokens', 'cldr_territories']
    assert set(wanted) <= set(seqio.TaskRegistry.names())
    if HAS_T5:
        of_t5 = [f'glue_{name}' for name in GLUE] + [f'super_glue_{name}' for name in SUPER_GLUE]
        of_t5 += ['squad', 'cnn_dailymail', 'xsum', 'imdb', 'wmt14_en_de', 'wmt16_ro_en', 'wmt19_en_zh']
        assert set(of_t5) <= set(seqio.TaskRegistry.names())


@pytest.mark.parametrize('name', [n for n in TFDS if 'wiki40b' not in n or n[-2:] in ('en', 'cn')])
def test_a_task_reads_its_data_set(name):
    split = next(split for split in ('train', 'validation', 'test') if split in prepared(name).splits)
    found = rows(name, split)
    assert len(found) >= 3 and all(text.strip() for row in found for text in row.values())


# Examples of appendix D of Raffel et al., arXiv 1910.10683, and of the data sets' own pages.
FORMATS = {
    'glue_cola': (
        {'sentence': ['John made Bill master of himself.'], 'label': [1], 'idx': [0]},
        'cola sentence: John made Bill master of himself.',
        'acceptable',
    ),
    'glue_stsb': (
        {'sentence1': ['A man sings.'], 'sentence2': ['A man is singing.'], 'label': [3.25], 'idx': [0]},
        'stsb sentence1: A man sings. sentence2: A man is singing.',
        '3.2',
    ),
    'glue_mnli': (
        {'premise': ['It rains.'], 'hypothesis': ['It is dry.'], 'label': [2], 'idx': [0]},
        'mnli hypothesis: It is dry. premise: It rains.',
        'contradiction',
    ),
    'super_glue_copa': (
        {
            'premise': ['Violence broke out.'],
            'choice1': ['Many moved.'],
            'choice2': ['Many stayed.'],
            'question': ['effect'],
            'label': [1],
            'idx': [0],
        },
        'copa choice1: Many moved. choice2: Many stayed. premise: Violence broke out. question: effect',
        'choice2',
    ),
    'squad': (
        {'id': ['1'], 'question': ['Who?'], 'context': ['Ann.'], 'answers': {'text': [['Ann']]}, 'title': ['']},
        'question: Who ? context: Ann . ',
        'Ann',
    ),
    'cnn_dailymail': (
        {'article': ['A long text.'], 'highlights': ['A text.'], 'id': [''], 'publisher': ['']},
        'summarize: A long text.',
        'A text.',
    ),
    'wmt14_en_de': ({'en': ['Hi.'], 'de': ['Hallo.']}, 'translate English to German: Hi.', 'Hallo.'),
    'imdb': ({'text': ['Good.'], 'label': [1]}, 'imdb text: Good.', 'positive'),
    'conll2003': ({'tokens': [['Ann', 'left']], 'ner': [[1, 0]]}, 'Ann left', 'B-PER O'),
    'paws_x_zh': (
        {'sentence1': ['他来了。'], 'sentence2': ['他到了。'], 'label': [1]},
        'paws sentence1: 他来了。 sentence2: 他到了。',
        'paraphrase',
    ),
    'xquad_zh': (
        {'question': ['谁？'], 'context': ['安。'], 'answers': {'text': [['安']]}},
        'question: 谁？ context: 安。',
        '安',
    ),
}


@pytest.mark.parametrize('name', FORMATS)
def test_a_task_has_its_published_format(name):
    if name not in seqio.TaskRegistry.names():
        pytest.skip('t5 is not installed')
    example, inputs, targets = FORMATS[name]
    (row,) = rows(name, 'train', example)
    assert row == {'inputs': inputs, 'targets': targets}


def test_wiki40b_is_text_without_its_marks():
    marked = '\n_START_ARTICLE_\nApple\n_START_SECTION_\nUse\n_START_PARAGRAPH_\nEaten._NEWLINE_Pressed.'
    (row,) = rows('wiki40b_en', 'train', {'text': [marked], 'wikidata_id': ['Q'], 'version_id': ['1']})
    assert row['targets'] == 'Apple\nUse\nEaten.\nPressed.'


def test_code_and_dialogues_are_read_from_their_files(monkeypatch):
    system = fsspec.filesystem('memory')
    code = [{'code': f'def f{i}(): pass', 'license': 'mit'} for i in range(2500)]
    system.pipe('/code/part-0.jsonl', '\n'.join(map(json.dumps, code)).encode())
    monkeypatch.setattr(public_tasks, 'GITHUB_CODE', 'memory://code/part-*.jsonl')
    parts = {split: list(tasks.texts('github_code', split)) for split in ('train', 'validation')}
    assert sorted(parts['train'] + parts['validation']) == sorted(row['code'] for row in code)
    assert 0 < len(parts['validation']) < 20
    messages = [{'message': text} for text in ('知道吗？', '知道。', '谢谢', '不客气')]
    system.pipe('/kd/film_dev.json', json.dumps([{'messages': messages}]).encode())
    monkeypatch.setattr(public_tasks, 'KDCONV', 'memory://kd/{domain}_{part}.json')
    assert list(tasks.rows('kdconv_film', 'validation')) == [
        {'inputs': '知道吗？', 'targets': '知道。'},
        {'inputs': '知道吗？\n知道。\n谢谢', 'targets': '不客气'},
    ]
    with pytest.raises(UserError, match=r'memory://kd/music_train\.json'):  # said as it was, through TensorFlow
        list(tasks.rows('kdconv_music', 'train'))


def test_the_papers_mixture_has_its_shares():
    shares = sorted(tasks.parts('palm_template').values(), reverse=True)
    assert shares == pytest.approx([0.50, 0.27, 0.13, 0.05, 0.04, 0.01])
    if HAS_T5:
        assert tasks.parts('glue')['glue_mnli'] > tasks.parts('glue')['glue_rte']
        assert set(tasks.parts('super_glue')) == {f'super_glue_{name}' for name in SUPER_GLUE[:-2]}


def test_what_cannot_be_downloaded_is_said(monkeypatch):
    source = seqio.TfdsDataSource('ag_news_subset:1.0.0')

    def fail(*_, **__):
        raise ConnectionError('no route')

    monkeypatch.setattr(source.tfds_dataset.builder, 'download_and_prepare', fail)
    seqio_chains.add_language_model_task('test_no_network', source, 'description')
    with pytest.raises(UserError, match=r'(?s)could not prepare ag_news_subset.*no route.*tfds build ag_news_subset'):
        list(tasks.texts('test_no_network'))


@pytest.fixture(scope='module')
def small():
    """Register two tasks: labels of texts, and tags of words."""

    def labels(split):
        return ({'inputs': f'text {split} {i}', 'targets': 'abc'[i % 3]} for i in range(60))

    def tags(split):
        return ({'inputs': f'Ann{i} {split}', 'targets': 'B-PER O'} for i in range(20))

    for name, generate in (('test_labels', labels), ('test_tags', tags)):
        source = seqio_chains.generator_source(generate, ('train', 'validation'), ('inputs', 'targets'))
        seqio_chains.add_text_to_text_task(name, source, [], [accuracy])


def test_an_unknown_task_or_split_is_said(small):
    with pytest.raises(UserError, match='Did you mean cldr_languages'):
        list(tasks.rows('cldr_language', 'train'))
    with pytest.raises(UserError, match="has no split 'dev'; it has: train, validation"):
        list(tasks.rows('cldr_languages', 'dev'))
    with pytest.raises(UserError, match="'python_stdlib' has no inputs; it has targets"):
        list(tasks.rows('python_stdlib', 'train'))
    with pytest.raises(UserError, match=r'has inputs, but .*registered_text_to_text\.gin'):
        next(tasks.token_examples('test_labels', 'train', Bytes()))


def test_few_shots_are_solved_examples_between_blank_lines(small):
    name = seqio_chains.few_shot('test_labels', 3)
    train = {row['inputs']: row['targets'] for row in tasks.rows('test_labels', 'train')}
    questions = list(tasks.rows('test_labels', 'validation'))
    solved = list(tasks.rows(name, 'validation'))
    assert len(solved) == len(questions) and solved == list(tasks.rows(name, 'validation'))
    for row, question in zip(solved, questions, strict=True):
        *shots, asked = row['inputs'].split('\n\n')
        assert len(shots) == 3 and row['targets'] == question['targets'] and asked == question['inputs']
        for shot in shots:
            text, label = shot.rsplit('\n', 1)
            assert train[text] == label
    assert solved[0]['inputs'] != solved[1]['inputs'] and seqio_chains.few_shot('test_labels', 3) == name
    with pytest.raises(UserError, match='no split `train` with text `inputs`'):
        seqio_chains.few_shot('python_stdlib', 2)
    with pytest.raises(UserError, match=f'has {len(train)} training examples; 1000 examples before a question'):
        seqio_chains.few_shot('test_labels', 1000)


def test_a_registered_task_is_a_table_for_every_head(small):
    paths = [task_tables.table('test_labels', split) for split in ('train', 'validation')]
    labels = LabelledTable(*paths, text_column='inputs', label_column='targets')
    assert [e.label for e in labels.examples('train')] == [r['targets'] for r in tasks.rows('test_labels', 'train')]
    path = task_tables.table('test_tags', 'validation', 'conll')
    sentences = TaggedTable(path, path).examples('train')
    assert [' '.join(s.words) for s in sentences] == [row['inputs'] for row in tasks.rows('test_tags', 'validation')]
    with pytest.raises(UserError, match='not a tagging task'):
        task_tables.table('test_labels', 'train', 'conll')


def test_a_mixture_is_a_table_with_its_shares(small):
    seqio.MixtureRegistry.add('test_two', [('test_tags', 3.0), ('test_labels', 1.0)])
    with open(task_tables.table('test_two', 'train')) as file:
        names = [json.loads(line)['task'] for line in file]
    assert names.count('test_tags') == 60 and names.count('test_labels') == 20


def test_another_version_of_a_users_task_is_another_table(tmp_path, monkeypatch):
    import importlib
    import sys

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)
    text = """
import seqio
from palm_jax.data.registry import seqio_chains as chains
def generate(split):
    yield {'inputs': 'a', 'targets': 'VERSION'}
source = chains.generator_source(generate, ('train',), ('inputs', 'targets'))
chains.add_text_to_text_task('test_mine', source, [])
"""
    written = []
    for version in ('one', 'two'):
        (tmp_path / 'test_mine_tasks.py').write_text(text.replace('VERSION', version))
        sys.modules.pop('test_mine_tasks', None)
        importlib.invalidate_caches()
        importlib.import_module('test_mine_tasks')
        task_tables.table.cache_clear()
        with open(task_tables.table('test_mine', 'train')) as file:
            written.append(json.loads(file.read())['targets'])
        seqio.TaskRegistry.remove('test_mine')
    assert written == ['one', 'two']


def test_metrics_of_tasks():
    assert accuracy(['a', 'b'], ['a', 'c']) == {'accuracy': 0.5}
    assert entity_f1(['B-PER O B-LOC'], ['B-PER O'])['entity_f1'] == pytest.approx(2 / 3)
    assert entity_f1(['B-PER O'], ['what is this'])['entity_f1'] == 0
    assert text_metric('squad')(['the cat'], ['cat'])['exact_match'] == 100
