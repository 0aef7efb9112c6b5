"""Texts to be embedded: alone, with positives, with hard negatives, and pairs with scores."""

import numpy as np
import pytest

from palm_jax.data.supervised.sentences import Sentences, SentenceTable
from palm_jax.errors import UserError


@pytest.fixture
def table(tmp_path):
    path = tmp_path / 'texts.csv'
    rows = ''.join(f'a text {i},the same {i},"another {i}, longer than eight"\n' for i in range(40))
    path.write_text(f'text,same,other\n{rows}')
    return str(path)


def data_of(table, length=40, **options):
    return Sentences(SentenceTable(table, **options), {'inputs': length}, 'bytes')


def test_the_texts_of_a_row_are_features_of_their_own(table):
    data = data_of(table, positive_column='same', negative_column='other')
    row = data.first()
    decoded = []
    for role in ('input', 'positive', 'negative'):
        ids = [i for i in row[f'decoder_{role}_tokens'] if i]
        segments = row[f'decoder_{"" if role == "input" else role + "_"}segment_ids']
        assert segments.sum() == len(ids) + 1 and ids[-1] == 1  # BOS and EOS
        decoded.append(data.vocabulary.decode([int(i) for i in ids[:-1]]))
    assert tuple(decoded) == data.examples('train')[0].texts
    assert data.example().count('tokens') == 3 and 'rows are cut' in data.describe()
    assert data.num_sequences + data.num_validation_sequences == 40


def test_a_text_alone_and_one_that_is_cut(table):
    data = data_of(table, length=6)
    assert set(data.blank()) == {'decoder_input_tokens', 'decoder_segment_ids', 'label_weights'}
    assert data.first()['decoder_input_tokens'][-1] == 1  # the end of the text remains
    (batch,) = list(data.validation(64))
    assert batch['label_weights'].sum() == data.num_validation_sequences < 64
    both_ways = Sentences(SentenceTable(table), {'inputs': 9}, 'bytes', bidirectional=True).first()
    np.testing.assert_array_equal(both_ways['decoder_causal_attention'], both_ways['decoder_segment_ids'])


def test_pairs_have_scores(table, tmp_path):
    path = tmp_path / 'pairs.tsv'
    path.write_text('text\tsecond_text\tscore\na dog\ta cat\t2.5\na\tb\t0\n')
    first, _ = SentenceTable(table, pairs_files=str(path)).pairs
    assert (first.text, first.second_text, first.score) == ('a dog', 'a cat', 2.5)
    path.write_text('text\tsecond_text\tscore\na dog\ta cat\thigh\n')
    with pytest.raises(UserError, match=r"pairs.tsv, line 2: the score 'high' is not a number"):
        SentenceTable(table, pairs_files=f'{tmp_path}/pairs*.tsv').pairs  # noqa: B018
    path.write_text('text\tsecond\tscore\na\tb\t1\n')
    with pytest.raises(UserError, match="no column 'second_text'"):
        SentenceTable(table, pairs_files=f'{tmp_path}/p*.tsv').pairs  # noqa: B018


def test_a_negative_needs_a_positive(table):
    with pytest.raises(UserError, match='NEGATIVE_COLUMN needs POSITIVE_COLUMN'):
        data_of(table, negative_column='other').describe()
