"""Tables of labelled text: features of a row, and messages about bad ones."""

import json

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from palm_jax.data.readers import tables
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText, num_outputs
from palm_jax.errors import UserError
from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number

ROWS = [(f'text number {i}', 'abc'[0 if i < 30 else 1 + i % 2]) for i in range(60)]


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / 'table.csv'
    path.write_text('text,label\n' + '\n'.join(f'"{text}, quoted",{label}' for text, label in ROWS) + '\n')
    return str(path)


def make(table, length=40, **options):
    return LabelledText(table, {'inputs': length}, 'bytes', **options)


def test_a_row_becomes_ids_and_a_label(csv):
    table = LabelledTable(csv)
    data, examples = make(table), table.examples('train')
    assert table.labels == ('a', 'b', 'c') and num_outputs(table) == 3
    assert len(examples) + len(table.examples('validation')) == 60
    batch = data.batch(0, len(examples))
    seen = set()
    for ids, segments, label in zip(
        batch['decoder_input_tokens'], batch['decoder_segment_ids'], batch['labels'], strict=True
    ):
        length = segments.sum()
        assert segments[:length].all() and not ids[length:].any()
        assert ids[0] == 0 and ids[length - 1] == 1
        text = data.vocabulary.decode(ids[1 : length - 1])
        seen.add((text, table.labels[label]))
    assert seen == {(e.text, e.label) for e in examples}  # an epoch goes through every example once
    again = make(table).batch(7, 5)
    np.testing.assert_array_equal(again['decoder_input_tokens'], data.batch(0, 20)['decoder_input_tokens'][7:12])


def test_equal_texts_are_held_out_together_and_always_the_same(tmp_path, csv):
    first = [e.text for e in LabelledTable(csv).examples('validation')]
    assert first == [e.text for e in LabelledTable(csv).examples('validation')] and 0 < len(first) < 20
    twice = tmp_path / 'twice.csv'
    twice.write_text('text,label\n' + '\n'.join(f'"{t}",{label}' for t, label in ROWS * 2) + '\n')
    held_out = [e.text for e in LabelledTable(str(twice)).examples('validation')]
    assert not set(held_out) & {e.text for e in LabelledTable(str(twice)).examples('train')}


def test_validation_counts_every_example_once(csv):
    data = make(LabelledTable(csv))
    batches = list(data.validation(4))
    assert sum(b['label_weights'].sum() for b in batches) == len(data.validation_examples)
    assert {len(b['labels']) for b in batches} == {4}


def test_pairs_have_two_ends_and_the_longer_text_is_cut(csv, caplog):
    data = make(LabelledTable(csv), length=12)
    ids, was_cut = data.tokens('abcdefghij', 'xyz')
    assert was_cut and len(ids) == 12 and ids.count(1) == 2
    assert data.vocabulary.decode(ids[1 : ids.index(1)]) == 'abcdef'
    assert data.tokens('ab', 'xy')[1] is False
    data.batch(0, 1)
    assert 'are longer than 12 tokens and are truncated' in caplog.text


def test_balanced_weights_are_scikit_learns(csv):
    table = LabelledTable(csv)
    data = make(table, class_weights='balanced')
    batch = data.batch(0, data.num_sequences)
    expected = compute_class_weight('balanced', classes=np.arange(3), y=batch['labels'])
    np.testing.assert_allclose(batch['label_weights'], expected[batch['labels']], rtol=1e-6)
    given = make(table, class_weights={'b': 3.0}).batch(0, data.num_sequences)
    np.testing.assert_array_equal(given['label_weights'], np.where(given['labels'] == 1, 3.0, 1.0))
    with pytest.raises(UserError, match='no class is called'):
        make(table, class_weights={'z': 1.0}).batch(0, 1)


@pytest.mark.parametrize('weight', [-1, -0.5, float('nan'), float('inf'), '2', None])
def test_a_class_weight_that_is_not_a_number_of_at_least_0_is_refused(csv, weight):
    with pytest.raises(UserError, match=r"CLASS_WEIGHTS: the weight of 'b' is .*; it must be a number of at least 0"):
        make(LabelledTable(csv), class_weights={'a': 1, 'b': weight}).describe()  # before the first step


def test_a_class_may_be_left_out_of_the_loss_but_not_all(csv):
    table = LabelledTable(csv)
    batch = make(table, class_weights={'b': 0}).batch(0, 30)
    np.testing.assert_array_equal(batch['label_weights'] == 0, batch['labels'] == 1)
    with pytest.raises(UserError, match='the weights of all classes are 0, so that nothing would be learned'):
        make(table, class_weights=dict.fromkeys(table.labels, 0)).describe()


@pytest.mark.parametrize(('sampling', 'pick'), [('over', max), ('under', min)])
def test_sampling_makes_classes_equally_frequent(csv, sampling, pick):
    table = LabelledTable(csv)
    plain, data = make(table), make(table, sampling=sampling)
    counts = np.bincount(plain.batch(0, plain.num_sequences)['labels'])
    sampled = np.bincount(data.batch(0, data.num_sequences)['labels'])
    assert set(sampled) == {pick(counts)}


def test_labels_and_numbers(tmp_path):
    path = tmp_path / 'rows.jsonl'
    path.write_text('\n'.join(json.dumps({'text': f't{i}', 'label': ('x | y' if i % 3 else 'y')}) for i in range(40)))
    table = LabelledTable(str(path), kind=LabelSet())
    labels = make(table).batch(0, 36)['labels']
    assert table.labels == ('x', 'y') and set(map(tuple, labels.tolist())) == {(1.0, 1.0), (0.0, 1.0)}
    path = tmp_path / 'numbers.tsv'
    path.write_text('text\tlabel\n' + '\n'.join(f't{i}\t{i / 2}' for i in range(40)))
    table = LabelledTable(str(path), kind=Number())
    assert num_outputs(table) == 1 and make(table).batch(0, 4)['labels'].dtype == np.float32


BAD = {
    'missing.csv': (None, 'no such file'),
    'empty.csv': ('', 'the file contains no rows'),
    'header_only.csv': ('text,label\n', 'the file contains no rows'),
    'other.csv': ('txt,label\na,b\n', r"line 2: no column 'text'. Did you mean txt\? .*TEXT_COLUMN"),
    'ragged.csv': ('text,label\na,b\nc,d,e\n', r'line 3: 3 values, but the header has 2 columns \(text, label\)'),
    'quote.csv': ('text,label\n"a" b,c\n', 'line 2'),
    'no_label.csv': ('text,label\na,x\nb,\n', "line 3: the column 'label' is empty"),
    'one_class.csv': ('text,label\n' + ''.join(f'{i},x\n' for i in range(50)), "every label is 'x'"),
    'nul.csv': ('text,label\na\0,x\n', 'line 2: contains a NUL byte'),
    'latin.csv': (b'text,label\na,x\nb\xe9,y\n', 'line 3: byte 0xe9 is not UTF-8'),
    'broken.jsonl': ('{"text": "a", "label": "x"}\n{"text": \n', 'line 2, column .*invalid JSON'),
    'list.jsonl': ('[1]\n', 'line 1: expected an object'),
    'table.xlsx': ('', "'.xlsx' is not a table format. Formats: .csv, .tsv, .txt, .jsonl, .json"),
}


@pytest.mark.parametrize('name', BAD)
def test_a_bad_table_is_one_message_with_its_place(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    tables.read.cache_clear()
    with pytest.raises(UserError, match=message):
        make(LabelledTable(str(path))).batch(0, 1)


def test_a_label_that_training_never_saw(tmp_path, csv):
    other = tmp_path / 'validation.csv'
    other.write_text('text,label\nq,d\n')
    with pytest.raises(
        UserError, match=r"validation.csv, line 2: the label 'd' never occurs in training.*Known: a, b, c"
    ):
        list(make(LabelledTable(csv, str(other))).validation(2))


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_text(tmp_path):
    path = tmp_path / 'windows.csv'
    path.write_bytes(b'\xef\xbb\xbf' + b'text,label\r\n' + b''.join(b't%d,%d\r\n' % (i, i % 2) for i in range(40)))
    assert LabelledTable(str(path)).labels == ('0', '1')
    with pytest.raises(UserError, match='is not a number'):
        path.write_text('text,label\n' + ''.join(f't{i},x{i}\n' for i in range(40)))
        tables.read.cache_clear()
        make(LabelledTable(str(path), kind=Number())).batch(0, 1)
