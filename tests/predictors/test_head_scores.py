"""Scores of many inputs are those of each input in a whole row."""

import numpy as np
import pytest

from palm_jax.predictors import head_scores
from tests.support.wrapped import build, features

COUNT, LENGTH = 11, 64


def inputs(kind):
    rng = np.random.default_rng(0)
    ends = rng.permutation(np.linspace(1, LENGTH, COUNT).astype(int))
    segments = (np.arange(LENGTH) < ends[:, None]).astype(np.int32)
    tokens = rng.integers(3, 60, (COUNT, LENGTH)).astype(np.int32) * segments
    names = set(features(kind)) & set(head_scores.FEATURES)
    return {name: {'decoder_input_tokens': tokens}.get(name, segments) for name in names}, ends


@pytest.mark.parametrize('kind', ['class', 'tokens'])
def test_inputs_are_read_by_length_and_scored_in_order(kind):
    model, _, params = build(kind)
    given, ends = inputs(kind)
    found = head_scores.head_scores(model, params, given, COUNT, 4)
    whole = np.asarray(head_scores.scores_of_batch(model, params, given))
    for row, end in enumerate(ends):
        assert found[row].shape == whole[row].shape
        used = slice(end) if kind == 'tokens' else slice(None)
        np.testing.assert_allclose(found[row][used], whole[row][used], atol=2e-5)


def test_batches_have_few_shapes_and_no_longer_rows_than_they_need():
    given, ends = inputs('class')
    batches = list(head_scores.by_length(given, 4))
    assert [x['decoder_input_tokens'].shape for _, x in batches] == [(4, 32), (4, 64), (4, 64)]
    assert sorted(np.concatenate([numbers for numbers, _ in batches])) == list(range(COUNT))
    for numbers, batch in batches:
        assert (batch['decoder_segment_ids'].sum(axis=1)[: len(numbers)] == ends[numbers]).all()
    few = {name: values[ends < 9] for name, values in given.items()}
    ((numbers, batch),) = head_scores.by_length(few, 32)
    assert len(numbers) == 2 and batch['decoder_input_tokens'].shape == (2, 16)
    assert not list(head_scores.by_length({name: values[:0] for name, values in given.items()}, 4))
