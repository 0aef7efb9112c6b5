"""Two models on the same examples: McNemar's exact test and the paired bootstrap."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from palm_jax.metrics.comparison import compare


def mcnemar(b, c):
    """Two-sided p of McNemar's exact test: twice the smaller tail of Binomial(b + c, 1/2)."""
    n, k = b + c, min(b, c)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


@pytest.mark.parametrize('b, c, both, neither', [(1, 9, 20, 3), (4, 4, 0, 0), (0, 7, 5, 5), (3, 12, 40, 1)])
def test_right_and_wrong(b, c, both, neither):
    first = np.array([1.0] * b + [0.0] * c + [1.0] * both + [0.0] * neither)
    second = np.array([0.0] * b + [1.0] * c + [1.0] * both + [0.0] * neither)
    found = compare(first, second)
    assert (found.only_first, found.only_second) == (b, c)
    assert found.p_value == pytest.approx(mcnemar(b, c)) and found.gain == pytest.approx((c - b) / len(first))
    assert found.differ == ((found.lower > 0 or found.upper < 0) and mcnemar(b, c) < 0.05)


def test_the_interval_of_numbers_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(1)
    first = rng.normal(size=400)
    second = first + rng.normal(0.2, 1.0, size=400)
    found, difference = compare(first, second, metric='BLEU'), second - first
    half = 1.96 * difference.std(ddof=1) / 20
    assert found.interval == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.01)
    assert found.only_first is None and found.differ
    assert found.p_value == pytest.approx(stats.ttest_rel(second, first).pvalue, abs=0.005)
    assert compare(first, second, metric='BLEU').interval == found.interval  # the same every time


def test_few_numbers_are_compared_by_all_changes_of_signs():
    first = np.zeros(7)
    second = np.array([1.0, 2.0, 0.5, 3.0, -0.25, 1.5, 0.0])
    found = compare(first, second, metric='mean absolute error')
    changed = second[second != 0]
    sums = [abs(np.dot(signs, changed)) for signs in itertools.product((1, -1), repeat=len(changed))]
    assert found.p_value == pytest.approx(np.mean([s >= abs(changed.sum()) - 1e-9 for s in sums]))
    better = compare(np.zeros(5), np.ones(5) / 2, metric='mean absolute error')
    assert better.lower > 0 and better.p_value == pytest.approx(2 / 32) and not better.differ  # five say too little


def test_right_and_wrong_are_a_special_case_of_signs():
    first, second = np.array([1.0] * 2 + [0.0] * 9), np.array([0.0] * 2 + [1.0] * 9)
    by_signs = compare(100 * first, 100 * second, metric='mean exact_match per text')
    assert by_signs.p_value == pytest.approx(compare(first, second).p_value) == pytest.approx(mcnemar(2, 9))


def test_equal_runs_and_a_single_example_do_not_differ():
    same = compare(np.ones(5), np.ones(5))
    assert not same.differ and same.p_value == 1.0 and same.interval == (0.0, 0.0)
    one = compare(np.zeros(1), np.ones(1))
    assert one.interval is None and not one.differ
