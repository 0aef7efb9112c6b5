"""Rows, tables and scores of every kind of model that is renewed."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from palm_jax.data.readers import conll
from palm_jax.data.supervised.conversations import Dialogues, PairTable
from palm_jax.data.supervised.labelled_text import LabelledTable
from palm_jax.data.supervised.tagged_text import TaggedTable
from palm_jax.errors import UserError
from palm_jax.labels.label_set import LabelSet
from palm_jax.monitoring.request_log import Kept
from palm_jax.reports.generation import GenerationReporter
from palm_jax.retuning import written
from palm_jax.retuning.collect import Labelled
from palm_jax.retuning.forms import Labels
from palm_jax.retuning.retune import form_of
from palm_jax.retuning.tags import Tags
from tests.support.kinds import every_kind


def with_source(model, source):
    """The model with other files."""
    data = SimpleNamespace(**{name: getattr(model.data, name) for name in ('labels', 'words', 'separator')
                              if hasattr(model.data, name)}, table=source, source=source)  # fmt: skip
    return dataclasses.replace(model, data=data)


def kept(given, label, endpoint='/v1/completions'):
    return Kept('r', 0, 0.0, 'm', 'c', endpoint, given, {}, label)


def test_tables_of_labels_are_read_as_they_were_written(micro, tmp_path):
    models = every_kind(micro, 'labels', 'pairs')
    table = LabelledTable(None, text_column='x', second_text_column='y', label_column='z', kind=LabelSet())
    form = Labels(with_source(models['labels'], table))
    rows = [Labelled(('a\u2028b', 'c "d"'), ['a'], 'r'), Labelled(('e', ''), [], 'r')]
    form.write(tmp_path / 't.jsonl', rows)
    assert [(r.texts, r.label) for r in form.read(tmp_path / 't.jsonl')] == [(r.texts, r.label) for r in rows]
    table = dataclasses.replace(table, columns=['x', 'q'], encoding='cp1250')
    assert Labels(with_source(models['labels'], table)).bindings == {
        'COLUMNS': None, 'ENCODING': None, 'LABELS': ['a', 'b'],
    }  # fmt: skip
    (tmp_path / 't.jsonl').write_text('{"x": "a", "y": "b"}\n')
    with pytest.raises(UserError, match=r"t\.jsonl, line 1 is damaged: it has no 'z'"):
        form.read(tmp_path / 't.jsonl')
    pairs = form_of(models['pairs'])
    assert pairs.of_request(kept(['a', 'b'], 2.5)).texts == ('a', 'b') and pairs.of_request(kept('a', 1)).texts == ()


def test_a_correction_of_tags_has_one_for_each_word(micro, tmp_path):
    model = every_kind(micro, 'tags')['tags']
    (tmp_path / 'train.conll').write_text('-DOCSTART- O\n\nAnn x B-PER\nran x O\n\n')
    form = Tags(with_source(model, TaggedTable(str(tmp_path / 'train.conll'), names=model.data.labels)))
    given = form.of_request(kept("Ann's dog, Bo.", ['B-PER', 'O', 'O', 'B-PER', 'O']))
    assert given.texts == ("Ann's", 'dog', ',', 'Bo', '.') and form.problem(given) is None
    assert form.problem(Labelled(('a', 'b'), ['O'], 'r')) == 'without a tag for each word'
    assert form.problem(Labelled(('a',), 'O', 'r')) == 'without a tag for each word'
    assert form.problem(Labelled(('a',), ['B-LOC'], 'r')) == 'a tag that the model does not have'
    rows = [*form.of_table(str(tmp_path / 'train.conll'), '--input'), given]
    assert rows[0].texts == ('Ann', 'ran') and rows[0].label == ['B-PER', 'O']
    form.write(tmp_path / 'round.conll', rows)
    assert [(r.texts, r.label) for r in form.read(tmp_path / 'round.conll')] == [(r.texts, r.label) for r in rows]
    read = conll.read(str(tmp_path / 'round.conll'), 'TRAIN_FILES', **{
        name.lower(): value for name, value in form.bindings.items() if name != 'LABELS'
    })  # fmt: skip
    assert [s.words for s in read] == [r.texts for r in rows]  # as the challenger reads them
    with pytest.raises(UserError, match=r'--input = .*none\.conll'):
        form.of_table(str(tmp_path / 'none.conll'), '--input')
    model.params['head']['bias'] = np.array([-9, 9, 0], np.float32)  # every word is an entity
    scores, metric = Tags(model).scores(
        model, [Labelled(('Ann', 'met'), ['B-PER', tag], '') for tag in ('B-PER', 'O')], 8
    )
    assert scores.tolist() == [1.0, 0.0] and metric == 'sentences with all entities right'


PAIRS = {
    'plain': PairTable(None),
    'of one column': PairTable(None, input='Q: {q}', target='{a}'),
    'of several': PairTable(None, input='{q} {c}', target='It is {a}.', references_column='all', split_by='{c}'),
    'by position': PairTable(None, input='{0}!', target='{1}'),
}


@pytest.mark.parametrize('name', PAIRS)
def test_pairs_are_learned_and_asked_as_the_champion_reads_them(micro, tmp_path, name):
    model, source = every_kind(micro, 'text_to_text')['text_to_text'], PAIRS[name]
    (tmp_path / 'train.jsonl').write_text(''.join(
        json.dumps({'q': f'where {i}?', 'a': f'here {i}', 'c': f'map {i}', 'all': [f'h{i}'], 'input': f'in {i}',
                    'target': f'out {i}'}) + '\n' for i in range(3)
    ))  # fmt: skip
    form = written.Pairs(with_source(model, source))
    rows = form.of_table(str(tmp_path / 'train.jsonl'), '--input')
    asked = form.of_request(kept('when?', 'now'))
    assert (asked.texts == ()) == (name == 'of several')  # whose columns one text cannot fill
    rows += [asked] if asked.texts else []
    form.write(tmp_path / 'round.jsonl', rows)
    again = form.read(tmp_path / 'round.jsonl')
    assert [(r.texts, r.label, r.turns) for r in again] == [(r.texts, r.label, r.turns) for r in rows]
    changes = {'TARGET_TEMPLATE': 'target', 'SPLIT_BY': 'split_by'}
    challenger = dataclasses.replace(source, **{changes[n]: value for n, value in form.bindings.items()})
    learned = challenger.read(str(tmp_path / 'round.jsonl'), 'TRAIN_FILES')
    assert [(c.turns[0].text, c.turns[1].text) for c in learned] == [(r.texts[0], r.label) for r in rows]
    assert challenger.input == source.input
    if name == 'of several':
        assert rows[0].label == 'It is here 0.' and learned[0].references == ('h0',) == again[0].references
    else:
        chat = form.of_request(kept([{'role': 'user', 'content': 'when?'}], 'now'))
        assert chat.texts == asked.texts and form.of_request(kept([3, 4], 'now')).texts == ()
    assert form.problem(asked) is None and form.problem(Labelled(('a',), ' ', 'r')) == 'without a right answer'


def test_of_a_corrected_dialogue_only_the_correction_is_learned(micro, tmp_path):
    model, source = every_kind(micro, 'chat')['chat'], Dialogues(None)
    messages = [
        ('system', 'be kind'),
        ('user', 'hi'),
        ('assistant', 'hello'),
        ('user', 'why?'),
        ('assistant', 'because'),
    ]
    as_json = [{'role': role, 'content': text} for role, text in messages]
    (tmp_path / 'train.jsonl').write_text(
        json.dumps({'messages': [*as_json, {'role': 'user', 'content': 'ok'}]}) + '\n'
    )
    form = written.Replies(with_source(model, source))
    rows = [*form.of_table(str(tmp_path / 'train.jsonl'), '--input'), form.of_request(kept(as_json[:-1], 'so'))]
    assert [(r.texts[-1], r.label) for r in rows] == [('why?', 'because'), ('why?', 'so')]
    form.write(tmp_path / 'round.jsonl', rows)
    assert [r.turns for r in form.read(tmp_path / 'round.jsonl')] == [r.turns for r in rows]
    learned = source.read(str(tmp_path / 'round.jsonl'), 'TRAIN_FILES')
    assert [[t.text for t in c.turns if t.learned] for c in learned] == [['hello', 'because'], ['so']]
    assert [t.role for t in learned[1].turns] == ['system', 'user', 'assistant', 'user', 'assistant']
    assert form.of_request(kept('hi', 'hello')).texts == ('hi',)


def test_answers_are_scored_by_the_first_metric_of_the_run(micro):
    model = every_kind(micro, 'text_to_text')['text_to_text']
    source, reporter = PairTable(None, input='{q}'), GenerationReporter(metrics=('squad', 'rouge'), examples=2)
    model = dataclasses.replace(model, run={'reporter': reporter})
    form = written.Pairs(with_source(model, source))
    rows = [form.of_request(kept(f'question {i}', 'x')) for i in range(5)]
    first, _, last = (model.predict([{'q': row.texts[0]}])[0] for row in rows[::2])
    rows[0], rows[4] = (dataclasses.replace(rows[i], label=text) for i, text in ((0, first), (4, f'{last} more words')))
    scores, metric = form.scores(model, rows, 8)
    assert metric == 'mean f1 per text' and len(scores) == 2 and scores[0] == 100 > scores[1]


def test_what_nobody_can_correct_is_refused(micro):
    with pytest.raises(
        UserError, match=r'label texts, tag words or answer in writing; this one was trained on text alone'
    ):
        form_of(dataclasses.replace(every_kind(micro, 'text')['text'], data=SimpleNamespace(labels=())))
    kinds = every_kind(micro, 'classes', 'tags', 'text_to_text', 'chat')
    assert [type(form_of(kinds[name])).__name__ for name in kinds] == ['Pairs', 'Replies', 'Labels', 'Tags']
