"""Packing of examples into rows."""

import itertools

import numpy as np
import pytest

from palm_jax.data.supervised.packing import pack


def test_packing_leaves_nothing_out_and_little_empty():
    lengths = np.random.default_rng(0).integers(1, 100, 2000).tolist()
    groups = pack(lengths, 128)
    assert sorted(i for group in groups for i in group) == list(range(2000))
    assert all(sum(lengths[i] for i in group) <= 128 for group in groups)
    assert sum(lengths) / (128 * len(groups)) > 0.97 and pack([], 8) == []


def fewest_rows(lengths, capacity):
    """The smallest number of rows, over all ways to fill them one example after the other."""
    best = len(lengths)
    for order in set(itertools.permutations(lengths)):
        rows, room = 1, capacity
        for length in order:
            rows, room = (rows, room - length) if length <= room else (rows + 1, capacity - length)
        best = min(best, rows)
    return best


@pytest.mark.parametrize('seed', range(8))
def test_best_fit_decreasing_needs_at_most_a_row_more_than_the_best_packing(seed):
    lengths = np.random.default_rng(seed).integers(1, 10, 7).tolist()
    assert fewest_rows(lengths, 10) <= len(pack(lengths, 10)) <= fewest_rows(lengths, 10) + 1


def test_rows_and_their_examples_are_in_the_order_of_the_data():
    assert pack([2, 9, 3, 5], 10) == [[0, 2, 3], [1]]
    assert pack([4, 4, 4, 4], 8) == [[0, 1], [2, 3]]
