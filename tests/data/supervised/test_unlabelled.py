"""Texts without labels beside labelled ones: functions of the number of the row, none of them held out."""

import numpy as np
import pytest

from palm_jax.data.augmentation.aeda import AEDA, MARKS
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.unlabelled import WithUnlabelled
from palm_jax.errors import UserError
from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number

RATIO = 3


@pytest.fixture
def data(tmp_path):
    """Builds the data; some of the texts have labels, and one is held out."""
    table, others = tmp_path / 'table.csv', tmp_path / 'others.csv'
    table.write_text('text,label\n' + ''.join(f'the text {i},{"ab"[i % 2]}\n' for i in range(40)))
    labelled = LabelledText(LabelledTable(str(table)), {'inputs': 40}, 'bytes')
    held_out = labelled.validation_examples[0].text
    rows = [f'text {i} has no label,{"b" if i < 10 else ""}' for i in range(30)]
    others.write_text('text,label\n' + '\n'.join([*rows, f'{held_out},a']) + '\n')

    def build(augmenters=(), files=str(others), **options):
        return WithUnlabelled(labelled, files, RATIO, augmenters, **options)

    return build


def texts(data, tokens):
    return [data.vocabulary.decode([int(i) for i in row if i > 1]) for row in tokens.reshape(-1, tokens.shape[-1])]


def test_every_row_has_texts_beside_it_in_an_order_of_their_own(data):
    plain = data()
    batch = plain.batch(4, 5)
    assert batch['unlabelled_tokens'].shape == (5, RATIO, 40) and batch['unlabelled_labels'].shape == (5, RATIO)
    assert 'unlabelled_strong_tokens' not in batch
    for name, values in plain.blank().items():
        assert values.shape == batch[name].shape[1:] and values.dtype == batch[name].dtype, name
    parts = [plain.batch(first, 1) for first in range(4, 9)]
    for name, values in batch.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]), err_msg=name)
    epoch = plain.batch(0, 10)  # 30 texts
    assert sorted(texts(plain, epoch['unlabelled_tokens'])) == sorted(f'text {i} has no label' for i in range(30))
    assert sorted(epoch['unlabelled_labels'].reshape(-1)) == [-1] * 20 + [1] * 10
    other = data(seed=1).batch(4, 5)
    assert (other['unlabelled_tokens'] != batch['unlabelled_tokens']).any()
    np.testing.assert_array_equal(other['labels'], batch['labels'])


def test_the_strong_view_is_another_one_each_time(data):
    views = data([AEDA()])
    batch = views.batch(0, 20)  # each text twice
    weak, strong = (texts(views, batch[name]) for name in ('unlabelled_tokens', 'unlabelled_strong_tokens'))
    for before, after in zip(weak, strong, strict=True):
        assert [word for word in after.split() if word not in MARKS] == before.split() and after != before
    assert len({tuple(pair) for pair in zip(weak, strong, strict=True)}) > 45
    again = views.batch(7, 2)
    np.testing.assert_array_equal(again['unlabelled_strong_tokens'], batch['unlabelled_strong_tokens'][7:9])


def test_texts_are_as_long_as_the_labelled_ones_beside_them(tmp_path):
    table, others = tmp_path / 'table.csv', tmp_path / 'others.csv'
    table.write_text('text,label\n' + ''.join(f'{"a" * (1 + i % 97)},{"ab"[i % 2]}\n' for i in range(200)))
    others.write_text('text\n' + ''.join(f'{"b" * (1 + i % 101)}\n' for i in range(606)))
    options = {'lengths': {'inputs': 120}, 'vocabulary': 'bytes', 'group_by_length': 4}
    labelled = LabelledText(LabelledTable(str(table)), **options)
    grouped = WithUnlabelled(labelled, str(others), RATIO, [AEDA()])
    batches = [grouped.batch(4 * i, 4) for i in range(45)]
    shapes = set()
    for number, batch in enumerate(batches):
        for name, values in labelled.batch(4 * number, 4).items():
            np.testing.assert_array_equal(batch[name], values)  # with or without texts beside them
        weak, strong = batch['unlabelled_tokens'], batch['unlabelled_strong_tokens']
        assert weak.shape == strong.shape == batch['unlabelled_strong_segment_ids'].shape
        shapes.add((batch['decoder_input_tokens'].shape[1], weak.shape[-1]))
    assert all(beside >= own for own, beside in shapes) and 6 <= len(shapes) <= 14  # a step is compiled for each
    assert np.mean([batch['unlabelled_tokens'].shape[-1] for batch in batches]) < 90
    read = [text for batch in batches for text in texts(grouped, batch['unlabelled_tokens'])]
    assert sorted(read)[:1] == ['b'] and max(map(len, read)) == 101  # none is cut
    again = grouped.batch(4 * 7 + 1, 2)  # a part of a group
    np.testing.assert_array_equal(
        texts(grouped, again['unlabelled_tokens']), texts(grouped, batches[7]['unlabelled_tokens'][1:3])
    )
    assert {name: x.shape for name, x in grouped.blank().items() if name.startswith('unlabelled')} == {
        'unlabelled_tokens': (3, 120), 'unlabelled_segment_ids': (3, 120), 'unlabelled_labels': (3,),
        'unlabelled_strong_tokens': (3, 120), 'unlabelled_strong_segment_ids': (3, 120),
    }  # fmt: skip


def test_the_rest_is_that_of_the_labelled_data(data):
    plain = data()
    assert plain.labels == ('a', 'b') and plain.table.text_column == 'text'
    (held_out,) = plain.validation(64)
    assert not [name for name in held_out if name.startswith('unlabelled')]
    assert 'unlabelled 30 texts, 3 beside each row; the labels of 10 are known' in plain.describe()
    found, labelled = plain.identity(), plain._data.identity()
    assert found['validation'] == labelled['validation'] and found['train'] != labelled['train']


def test_what_is_missing_is_named(data, tmp_path):
    with pytest.raises(UserError, match='UNLABELLED_FILES is not set'):
        data(files=None).describe()
    (tmp_path / 'wrong.csv').write_text('txt\na\n')
    with pytest.raises(UserError, match=r"no column 'text'. Did you mean txt\?"):
        data(files=str(tmp_path / 'wrong.csv')).describe()
    (tmp_path / 'texts.jsonl').write_text('{"text": "one"}\n{"text": "another"}\n')
    assert 'unlabelled 2 texts' in data(files=str(tmp_path / 'texts.jsonl')).describe()


def test_rows_without_a_text_are_listed(tmp_path):
    table, others, bad = (tmp_path / name for name in ('table.csv', 'others.csv', 'bad.txt'))
    table.write_text('text,label\n' + ''.join(f'the text {i},{"ab"[i % 2]}\n' for i in range(40)))
    others.write_text('text,label\none,\n,a\n')
    plain = LabelledText(LabelledTable(str(table)), {'inputs': 40}, 'bytes')
    with pytest.raises(UserError, match=r"others.csv, line 3: the column 'text' is empty"):
        WithUnlabelled(plain, str(others)).describe()
    listing = LabelledText(LabelledTable(str(table), bad_rows=str(bad)), {'inputs': 40}, 'bytes')
    assert 'unlabelled 1 text,' in WithUnlabelled(listing, str(others)).describe() and 'line 3' in bad.read_text()
    (tmp_path / 'none.csv').write_text('text\n')
    with pytest.raises(UserError, match='the file contains no rows'):
        WithUnlabelled(plain, str(tmp_path / 'none.csv')).describe()
    same = WithUnlabelled(plain, str(table), ratio=1)  # the training file itself, without what is held out
    assert f'unlabelled {plain.num_sequences} texts' in same.describe()


def test_texts_that_have_a_label_in_the_training_part_are_counted(data, tmp_path, caplog):
    data().describe()
    assert 'TRAIN_FILES' not in caplog.text
    mixed = tmp_path / 'mixed.csv'
    rows = [f'the text {i},' for i in range(40)]  # those of the labelled table, the held-out ones included
    mixed.write_text('\n'.join(['text,label', *rows, 'the  text 3,', 'another,']) + '\n')
    data(files=str(mixed)).describe()
    assert '38 of 39 texts of UNLABELLED_FILES are also in TRAIN_FILES' in caplog.text  # three are held out


@pytest.mark.parametrize('kind', [LabelSet(), Number()])
def test_other_labels_than_one_class_are_refused(tmp_path, kind):
    with pytest.raises(UserError, match=r'UNLABELLED_FILES needs one class per text.*REPLAY_PREDICTED=True'):
        WithUnlabelled(LabelledText(LabelledTable('table.csv', kind=kind), {'inputs': 40}, 'bytes'), 'others.csv')
