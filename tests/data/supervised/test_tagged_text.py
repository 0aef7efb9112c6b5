"""CoNLL tables and their batches: one tag at the last token of every word."""

import numpy as np
import pytest

from palm_jax.data.readers import conll
from palm_jax.data.supervised.tagged_text import TaggedTable, TaggedText
from palm_jax.errors import UserError

TEXT = '-DOCSTART- O\n\nAnn NNP B-PER\nlives VBZ O\nhere RB O\n\nIn IN O\nRome NNP B-LOC\n\t\n'


@pytest.fixture
def files(tmp_path):
    (tmp_path / 'train.conll').write_text(TEXT)
    (tmp_path / 'dev.conll').write_text('New\tB-ORG\nYork\tI-ORG\n')
    return tmp_path


def data(files, length=32, **changes):
    table = TaggedTable(str(files / 'train.conll'), str(files / 'dev.conll'))
    return TaggedText(table, {'inputs': length}, 'bytes', **changes)


def test_sentences_have_words_tags_and_a_place(files):
    first, second = conll.read(str(files / 'train.conll'), 'TRAIN_FILES')
    assert first.words == ('Ann', 'lives', 'here') and first.tags == ('B-PER', 'O', 'O')
    assert first.location.endswith('train.conll, line 3') and second.words == ('In', 'Rome')


def test_a_tag_stands_at_the_last_token_of_its_word(files):
    ours = data(files)
    assert ours.labels == ('O', 'B-LOC', 'I-LOC', 'B-ORG', 'I-ORG', 'B-PER', 'I-PER')
    rows = [ours.batch(i, 1) for i in range(2)]
    (row,) = (r for r in rows if r['decoder_segment_ids'].sum() == 1 + len('Ann lives here'))
    decoded = [ours.vocabulary.decode([int(i)]) for i in row['decoder_input_tokens'][0]]
    places = np.flatnonzero(row['label_weights'][0])
    assert [decoded[i] for i in places] == ['n', 's', 'e'] and ''.join(decoded).strip() == 'Ann lives here'
    assert [ours.labels[i] for i in row['labels'][0, places]] == ['B-PER', 'O', 'O']
    np.testing.assert_array_equal(row['decoder_causal_attention'], row['decoder_segment_ids'])
    assert 'decoder_causal_attention' not in data(files, bidirectional=False).batch(0, 1)


def test_words_that_do_not_fit_are_cut_and_told(files, caplog):
    ours = data(files, length=10)  # 0, `Ann lives`
    weights = ours.batch(0, 2)['label_weights']
    assert sorted(weights.sum(axis=1)) == [2, 2]
    assert '1 of 2 train sentences (50%) are longer than 10 tokens' in caplog.text
    assert [len(places) for places in ours.inputs([['a', 'b'], ['abcdefghijk']])[1]] == [2, 0]


def test_the_last_batch_is_filled_up_with_weight_0(files):
    (batch,) = data(files).validation(4)
    assert batch['label_weights'].sum() == 2 and batch['labels'].shape == (4, 32)


def test_weights_of_tags(files):
    weights = data(files, class_weights={'B-PER': 5.0}).batch(0, 2)['label_weights']
    assert sorted(weights[weights > 0]) == [1, 1, 1, 1, 5]
    with pytest.raises(UserError, match=r"CLASS_WEIGHTS: the weight of 'B-PER' is -1; it must be a number of at least"):
        data(files, class_weights={'B-PER': -1}).describe()
    balanced = data(files, class_weights='balanced').batch(0, 2)['label_weights']
    np.testing.assert_allclose(sorted(set(balanced[balanced > 0])), [5 / (7 * 3), 5 / 7], rtol=1e-6)


def test_characters_without_blanks(tmp_path):
    (tmp_path / 'zh.conll').write_text('女0\tB-PER\n人1\tI-PER\n5\tO\n')
    table = TaggedTable(str(tmp_path / 'zh.conll'), str(tmp_path / 'zh.conll'), word_pattern='(.+?)[0-9]?')
    ours = TaggedText(table, {'inputs': 16}, 'bytes', separator='')
    assert table.examples('train')[0].words == ('女', '人', '5')
    assert ours.vocabulary.decode(ours.batch(0, 1)['decoder_input_tokens'][0]).strip('\0') == '女人5'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('Ann B-PER\nlives\n', r'bad.conll, line 2: 1 column\(s\)'),
        ('Ann PER\n', "line 1: 'PER' in 'Ann PER' is not a tag"),
        ('\n\n', 'the files contain no sentences'),
        ('a O\n', 'every tag is O'),
    ],
)
def test_mistakes_have_a_place(tmp_path, text, message):
    (tmp_path / 'bad.conll').write_text(text)
    with pytest.raises(UserError, match=message):
        _ = TaggedTable(str(tmp_path / 'bad.conll'), str(tmp_path / 'bad.conll')).labels
