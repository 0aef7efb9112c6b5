"""Measures of a sequence of tasks against a matrix worked out by hand."""

import math

import numpy as np
import pytest

from palm_jax.studies import transfer

# Rows: before, after A, after B, after C. Columns: A, B, C.
SCORES = np.array(
    [
        [0.10, 0.20, 0.30],
        [0.90, 0.25, 0.20],
        [0.70, 0.80, 0.40],
        [0.60, 0.85, 0.95],
    ]
)


def test_the_measures_are_those_of_the_papers():
    found = transfer.measure(SCORES)
    assert found.average == pytest.approx((0.60 + 0.85 + 0.95) / 3)
    # A: best before the end 0.90, B: 0.80
    assert found.forgetting == pytest.approx(((0.90 - 0.60) + (0.80 - 0.85)) / 2)
    # A: 0.60 − R_11 = 0.90, B: 0.85 − R_22 = 0.80
    assert found.backward == pytest.approx(((0.60 - 0.90) + (0.85 - 0.80)) / 2)
    # B after A: 0.25 − 0.20 before, C after B: 0.40 − 0.30 before
    assert found.forward == pytest.approx(((0.25 - 0.20) + (0.40 - 0.30)) / 2)


def test_the_best_earlier_score_need_not_be_that_of_the_task_itself():
    scores = SCORES.copy()
    scores[2, 0] = 0.97  # learning B has helped A for a while
    assert transfer.measure(scores).forgetting == pytest.approx(((0.97 - 0.60) + (0.80 - 0.85)) / 2)
    assert transfer.measure(scores).backward == transfer.measure(SCORES).backward


def test_losses_are_taken_the_other_way_round():
    found, of_losses = transfer.measure(SCORES), transfer.measure(1 - SCORES, smaller_is_better=True)
    for name in ('forgetting', 'backward', 'forward'):
        assert getattr(of_losses, name) == pytest.approx(getattr(found, name)), name
    assert of_losses.average == pytest.approx(1 - found.average)


def test_what_is_missing_has_no_measure():
    scores = SCORES.copy()
    scores[3] = np.nan
    found = transfer.measure(scores)
    assert math.isnan(found.average) and math.isnan(found.forgetting) and math.isnan(found.backward)
    assert found.forward == pytest.approx(0.075)  # which needs no scores of the end
