"""Some of many examples: as many as asked for, the first and the last among them, at equal distances."""

import numpy as np
import pytest

from palm_jax.evenly_spaced import evenly_spaced


@pytest.mark.parametrize(
    ('count', 'most', 'expected'),
    [(0, 5, []), (3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (9, 1, [0]), (10, 4, [0, 3, 6, 9])],
)
def test_they_are_spread_over_all(count, most, expected):
    assert evenly_spaced(count, most) == expected


def test_there_are_as_many_as_asked_for_and_distances_differ_by_one_at_most():
    for count in range(2, 60):
        for most in range(2, count + 1):
            found = evenly_spaced(count, most)
            assert len(found) == most and found[0] == 0 and found[-1] == count - 1
            assert np.ptp(np.diff(found)) <= 1
