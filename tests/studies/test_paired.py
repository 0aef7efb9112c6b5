"""Paired effects against SciPy's t-test, and Holm's correction against its definition."""

import math

import numpy as np
import pytest
from scipy import stats

from palm_jax.studies.paired import effect, holm


@pytest.mark.parametrize('n', [2, 3, 10])
def test_an_effect_is_the_paired_t_test(n):
    rng = np.random.default_rng(n)
    values, baseline = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
    expected, found = stats.ttest_rel(values, baseline), effect(values, baseline)
    low, high = expected.confidence_interval(0.95)
    assert found.pairs == n and found.mean == pytest.approx(values.mean() - baseline.mean())
    np.testing.assert_allclose((found.p_value, found.lower, found.upper), (expected.pvalue, low, high), rtol=1e-9)


def test_one_pair_has_no_interval():
    found = effect([0.7], [0.5])
    assert found.mean == pytest.approx(0.2) and math.isnan(found.lower) and math.isnan(found.p_value)


def test_the_same_difference_with_every_seed():
    assert effect([1.0, 2.0], [1.0, 2.0]).p_value == 1
    assert effect([1.0, 2.0], [0.5, 1.5]).p_value == 0


def test_holm_by_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9, 0.8]) == [1, 1, 1]
    assert holm([0.02, math.nan, 0.01])[::2] == pytest.approx([0.02, 0.02])
    assert math.isnan(holm([0.02, math.nan])[1]) and holm([]) == []
