"""The text of a row as it grows: it ends at EOS or at a stop sequence, wherever the tokens are cut."""

import numpy as np
import pytest

from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.inference.completion import RowText, add_generated
from palm_jax.inference.decoding import Generated
from palm_jax.special_ids import EOS_ID

BYTES = Bytes()


@pytest.mark.parametrize('size', [1, 3, 100])
def test_a_text_ends_before_the_first_stop_sequence(size):
    row, ids = RowText(BYTES, ('END', '\n\n')), BYTES.encode('one\ntwo\n\nthreeEND')
    for start in range(0, len(ids), size):
        row.add(ids[start : start + size], [-0.5] * len(ids[start : start + size]))
    completion = row.completion()
    assert row.has_ended and (completion.text, completion.finish_reason) == ('one\ntwo', 'stop')
    assert completion.ids == tuple(BYTES.encode('one\ntwo\n\n'))  # what completes the sequence is the last token
    assert completion.score == pytest.approx(-0.5 * len(completion.ids))


def test_eos_has_a_probability_and_no_text_and_what_follows_is_dropped():
    rows = [RowText(BYTES), RowText(BYTES)]
    tokens = np.array([[*BYTES.encode('ab'), EOS_ID, *BYTES.encode('c')], BYTES.encode('abcd')])
    logprobs = np.log([[0.5, 0.25, 0.125, 1.0]] * 2)
    add_generated(rows, Generated(tokens, np.array([4, 3]), logprobs))
    ended, cut = (row.completion() for row in rows)
    assert (ended.text, ended.finish_reason, len(ended.logprobs)) == ('ab', 'stop', 3)
    assert ended.score == pytest.approx(np.log(0.5 * 0.25 * 0.125))
    assert (cut.text, cut.finish_reason, len(cut.logprobs)) == ('abc', 'length', 3)
