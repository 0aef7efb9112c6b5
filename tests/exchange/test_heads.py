"""Heads go out whole: with labels, a description and a program for jax and TFLite, and to classes of Transformers."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from palm_jax.api.trained_model import TrainedModel
from palm_jax.data.registry import stdlib
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.tagged_text import TaggedTable, TaggedText
from palm_jax.data.vocabulary import fitting
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.errors import UserError
from palm_jax.exchange import compiled, described, hf_directory, hf_heads
from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number
from palm_jax.labels.single_label import SingleLabel
from palm_jax.models.heads import Head
from palm_jax.models.palm import PaLM
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import AdaptedModel
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.predictors.tag_predictor import TagPredictor
from tests.support.models import initial, shaken

L = 28
TEXTS = ['the square of 3', 'is 9', 'naïve — 中文 😀', 'two  blanks\tand a tab', 'x' * 60]
LABELS = {'classes': 'abc', 'sets': ('a', 'b|c', 'a|c'), 'numbers': ('0.1', '2.5', '-7'), 'pairs': 'abc'}
KINDS = {'classes': SingleLabel(), 'sets': LabelSet(), 'numbers': Number(), 'pairs': SingleLabel()}
LLAMA = {'norm': 'rmsnorm', 'parallel': False, 'logit_scale': 1.0}


@pytest.fixture(scope='module')
def vocabularies(tmp_path_factory):
    pytest.importorskip('transformers')
    from tests.support.published import write_tokenizer

    folder = tmp_path_factory.mktemp('vocabularies')
    texts = (example['text'] for example in stdlib.examples('train'))
    fitting.fit(texts, 500, folder / 'v.model', max_bytes=100_000)
    write_tokenizer(folder)
    return {'bytes': 'bytes', 'sentencepiece': str(folder / 'v.model'), 'tokenizers': str(folder / 'tokenizer.json')}


def labeller(micro, kind, vocabulary, folder, pooling='mean', bidirectional=False, **changes):
    """A model with a head and LoRA, of random weights, as `api.load` returns one."""
    if kind == 'tags':
        (folder / 'data.conll').write_text(''.join(f'Ann{i} B-PER\nSmith I-PER\nis O\n\n' for i in range(30)))
        table = TaggedTable(train_files=str(folder / 'data.conll'))
        data = TaggedText(table, {'inputs': L}, vocabulary, bidirectional=bidirectional)
        predictor, head = TagPredictor(), Head(len(data.labels), pooling='none')
    else:
        rows = ''.join(f'{text} {i},{text},{LABELS[kind][i % 3]}\n' for i in range(10) for text in ('one text', 'more'))
        (folder / 'data.csv').write_text(f'text,other,label\n{rows}')
        second = 'other' if kind == 'pairs' else None
        table = LabelledTable(str(folder / 'data.csv'), second_text_column=second, kind=KINDS[kind])
        data = LabelledText(table, {'inputs': L}, vocabulary, bidirectional=bidirectional)
        predictor, head = LabelPredictor(KINDS[kind]), Head(KINDS[kind].num_scores(len(data.labels)), pooling=pooling)
    arch = micro(vocab_size=600, **changes)[0].arch
    model = AdaptedModel(PaLM(arch, head=head), (LoRA(rank=2),))
    params = jax.tree.map(lambda x: 2 * x, shaken(initial(model)))
    return TrainedModel(model, params, data, Path('config.gin'), predictor)


def inputs(model):
    return list(itertools.pairwise(TEXTS)) if model.predictor.reads_pairs(model) else TEXTS


def export(model, directory, write=compiled.write_stablehlo):
    batches, data = described.example_batches(model), model.data
    write(model.predictor, model.model, model.params, data.length, directory, batches, data.bidirectional)
    return described.write(model, ExtendedVocabulary(data.vocabulary), directory)


def run_program(directory, texts, *flags):
    """What run.py prints without this package, whose modules it may not import."""
    code = 'import runpy, sys; sys.modules["palm_jax"] = None; runpy.run_path(sys.argv.pop(1), run_name="__main__")'
    command = [sys.executable, '-c', code, str(directory / 'run.py'), *flags]
    result = subprocess.run([*command, *texts], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


def assert_same(theirs, ours):
    for found, expected in zip(theirs, ours, strict=True):
        if isinstance(expected, dict):
            assert list(found) == list(expected)
            assert list(found.values()) == pytest.approx(list(expected.values()), abs=1e-4)
        else:
            assert found == (pytest.approx(expected, abs=1e-3) if isinstance(expected, float) else expected)


CASES = {
    'classes': ('classes', 'bytes', {}),
    'sets, both ways': ('sets', 'sentencepiece', {'bidirectional': True, 'pooling': 'first'}),
    'numbers': ('numbers', 'tokenizers', {'pooling': 'last'}),
    'pairs': ('pairs', 'sentencepiece', {}),
    'tags, both ways': ('tags', 'tokenizers', {'bidirectional': True}),
}


@pytest.mark.parametrize(
    'case', [pytest.param(v, id=k, marks=pytest.mark.slow if k == 'numbers' else ()) for k, v in CASES.items()]
)
def test_a_compiled_head_has_labels_a_description_and_a_program(case, micro, vocabularies, tmp_path):
    kind, vocabulary, options = case
    model = labeller(micro, kind, vocabularies[vocabulary], tmp_path, **options)
    assert 'predicts the same as the model for' in export(model, tmp_path / 'out')
    about = json.loads((tmp_path / 'out' / 'model.json').read_text())
    assert about['labels'] == list(model.data.labels) and about['vocabulary']['kind'] == vocabulary
    assert [array['shape'] for array in about['inputs']] == [[1, L], [1, L]]
    assert all('content' in array for array in (*about['inputs'], about['output']))
    given = inputs(model)
    texts = [text for pair in given for text in pair] if kind == 'pairs' else given
    assert_same(run_program(tmp_path / 'out', texts), model.predict(given))
    entries = {path.name for path in (tmp_path / 'out').iterdir()}
    assert {'model.stablehlo', 'model.json', 'run.py'} <= entries


@pytest.mark.slow
def test_a_head_for_small_devices_has_them_too(micro, vocabularies, tmp_path):
    model = labeller(micro, 'tags', vocabularies['sentencepiece'], tmp_path, bidirectional=True)
    export(model, tmp_path / 'out', compiled.write_tflite)
    assert_same(run_program(tmp_path / 'out', TEXTS), model.predict(TEXTS))
    assert len(run_program(tmp_path / 'out', TEXTS, '--model=model_int8.tflite')) == len(TEXTS)


def test_a_head_goes_out_without_its_table(micro, tmp_path):
    model = labeller(micro, 'classes', 'bytes', tmp_path)
    labels = model.data.labels
    (tmp_path / 'data.csv').unlink()
    table = LabelledTable(str(tmp_path / 'data.csv'), names=labels)
    model = TrainedModel(
        model.model, model.params, LabelledText(table, {'inputs': L}, 'bytes'), Path('config.gin'), model.predictor
    )
    assert 'predicts the same' in export(model, tmp_path / 'out')


def test_a_program_that_predicts_otherwise_is_not_called_good(micro, tmp_path, monkeypatch):
    model = labeller(micro, 'classes', 'bytes', tmp_path)
    real = described.describe
    monkeypatch.setattr(described, 'describe', lambda *args: real(*args) | {'activation': 'sigmoid'})
    with pytest.raises(UserError, match=r'run\.py predicts .* but the model .* do not use it'):
        export(model, tmp_path / 'out')


def written(model, directory, **options):
    params = model.merged()
    head = hf_heads.of(model, params)
    vocabulary = ExtendedVocabulary(model.data.vocabulary)
    hf_directory.write(params, model.model.arch, vocabulary, L, directory, head=head, **options)
    assert 'scores     differ by at most' in hf_heads.verify(directory, head, model, params, vocabulary)
    return head


HF_CASES = {
    'classes': ('classes', 'bytes', {}, 'PaLMForSequenceClassification'),
    'sets, both ways': ('sets', 'sentencepiece', {'bidirectional': True, 'pooling': 'first'}, 'PaLMForSequence'),
    'numbers, pooled last': ('numbers', 'tokenizers', {'pooling': 'last', **LLAMA}, 'PaLMForSequenceClassification'),
    'tags, both ways': ('tags', 'tokenizers', {'bidirectional': True}, 'PaLMForTokenClassification'),
    'tags': ('tags', 'bytes', LLAMA, 'LlamaForTokenClassification'),
}


@pytest.mark.parametrize(
    'case',
    [pytest.param(v, id=k, marks=pytest.mark.slow if k.startswith('numbers') else ()) for k, v in HF_CASES.items()],
)
def test_a_head_goes_to_a_class_of_transformers(case, micro, vocabularies, tmp_path):
    transformers = pytest.importorskip('transformers')
    kind, vocabulary, options, name = case
    model = labeller(micro, kind, vocabularies[vocabulary], tmp_path, **options)
    head = written(model, tmp_path / 'out')
    assert head.config['architectures'][0].startswith(name)
    assert bool(head.reason) == (tmp_path / 'out' / hf_heads.MODULE).exists() == name.startswith('PaLM')
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert list(config['id2label'].values()) == (list(model.data.labels) or ['number'])
    if kind == 'tags':
        return
    label = transformers.pipeline('text-classification', str(tmp_path / 'out'), trust_remote_code=True, top_k=None)
    for text, expected in zip(TEXTS, model.predict(TEXTS), strict=True):
        found = {row['label']: row['score'] for row in label([text], truncation=True)[0]}
        assert found == pytest.approx(expected if isinstance(expected, dict) else {'number': expected}, abs=1e-4)


def test_a_head_that_a_class_of_transformers_has_needs_no_code(micro, tmp_path):
    pytest.importorskip('transformers')
    model = labeller(micro, 'classes', 'bytes', tmp_path, pooling='last', **LLAMA)
    model.params['head']['bias'] = np.zeros_like(model.params['head']['bias'])
    head = written(model, tmp_path / 'out')
    assert not head.reason and head.command.startswith('AutoModelForSequenceClassification')
    written(model, tmp_path / 'half', dtype='bfloat16')
    other = model.model.merge(model.params | {'head': jax.tree.map(lambda x: x * 1.1, model.params['head'])})
    with pytest.raises(UserError, match=r'scores differ by .* do not use it'):
        hf_heads.verify(tmp_path / 'out', head, model, other, ExtendedVocabulary(model.data.vocabulary))
