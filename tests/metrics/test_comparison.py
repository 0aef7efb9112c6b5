"""Two models on the same examples, in pairs, and a model on other examples, apart."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from palm_jax.metrics.comparison import compare, compare_apart


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


def test_other_examples_are_compared_by_fishers_test_and_newcombes_interval():
    """56 of 70 and 48 of 80 is the example of Newcombe (1998), whose method 10 gives 0.0524 to 0.3339."""
    first, second = np.repeat([1.0, 0.0], [48, 32]), np.repeat([1.0, 0.0], [56, 14])
    found = compare_apart(first, second)
    assert found.gain == pytest.approx(0.2) and found.interval == pytest.approx((0.0524, 0.3339), abs=5e-5)
    chances = stats.hypergeom(150, 104, 80).pmf(np.arange(34, 81))  # right ones among the 80, all margins given
    expected = chances[chances <= stats.hypergeom(150, 104, 80).pmf(48) * (1 + 1e-9)].sum()
    assert found.p_value == pytest.approx(expected) and found.test == "Fisher's exact test"
    assert found.only_first is None and found.differ
    assert compare(first[:70], second).p_value != pytest.approx(expected)  # what the pairing of the same numbers says


def test_other_numbers_are_compared_by_all_divisions():
    first, second = np.array([0.5, 1.0, 2.5]), np.array([3.0, 2.0, 4.0, 1.5])
    found, values = compare_apart(first, second, 'mean absolute error'), np.concatenate([first, second])
    gains = [
        values[[i for i in range(7) if i not in chosen]].mean() - values[list(chosen)].mean()
        for chosen in itertools.combinations(range(7), 3)
    ]
    # Twice the smaller tail, which of sets of different sizes is not the share of differences that are as large.
    tails = [np.mean([g >= found.gain - 1e-9 for g in gains]), np.mean([g <= found.gain + 1e-9 for g in gains])]
    assert found.p_value == pytest.approx(2 * min(tails)) and found.test == 'the permutation test'
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=300), rng.normal(0.3, 2.0, size=200)
    half = 1.96 * np.sqrt(first.var(ddof=1) / 300 + second.var(ddof=1) / 200)
    found = compare_apart(first, second, 'mean absolute error')
    assert found.interval == pytest.approx((found.gain - half, found.gain + half), abs=0.02)
    assert compare_apart(first, second[:1], 'mean absolute error').interval is None
