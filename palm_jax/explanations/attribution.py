"""Attributions: what each word contributes to an output.

- `gradient_x_input`: Σ over the word's tokens of x·∇f(x) (Shrikumar et al. 2016, arXiv 1605.01713).
- `integrated_gradients`: (x − x′)·∫₀¹ ∇f(x′ + α·(x − x′)) dα, by Gauss–Legendre quadrature (Sundararajan et al. 2017,
  arXiv 1703.01365). The attributions of all words add up to f(x) − f(x′), up to the completeness error.
- `leave_one_out`: f(x) − f(x without the word).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from palm_jax.explanations.explainable import Explainable
from palm_jax.explanations.scorer import Scorer

METHODS = ('integrated_gradients', 'gradient_x_input', 'leave_one_out')


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What the W words of one row contribute.

    Attributes:
      words: contribution of each word, float64 [W].
      baseline_value: f(x′), the output where all words are the baseline; None where there is no baseline.
      completeness_error: |Σ words − (f(x) − f(x′))|; None likewise.
    """

    words: np.ndarray
    baseline_value: float | None = None
    completeness_error: float | None = None


def attribute(
    method: str, scorer: Scorer, rows: Sequence[Explainable], values: np.ndarray, steps: int
) -> list[Attribution]:
    """Return the attributions of rows by one of `METHODS`.

    Args:
      method: name of the method.
      scorer: computes values and gradients.
      rows: rows to explain.
      values: value of the output of each row, float64 [N].
      steps: points of the quadrature of `integrated_gradients`.
    """
    if method == 'leave_one_out':
        return _leave_one_out(scorer, rows, values)
    if method == 'gradient_x_input':
        tokens = [np.zeros(0)] * len(rows)
        for chosen, by_input, _ in scorer.gradients(rows, range(len(rows)), [1.0] * len(rows), 'gradient × input'):
            for i, row_L in zip(chosen, by_input, strict=False):
                tokens[i] = row_L
        return [Attribution(_per_word(row, row_L)) for row, row_L in zip(rows, tokens, strict=True)]
    return _integrated_gradients(scorer, rows, values, steps)


def quadrature(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the points and weights of Gauss–Legendre quadrature on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return (points + 1) / 2, weights / 2


def _integrated_gradients(
    scorer: Scorer, rows: Sequence[Explainable], values: np.ndarray, steps: int
) -> list[Attribution]:
    points, weights = quadrature(steps)
    totals = [np.zeros(len(row.ids)) for row in rows]
    numbers = [number for number in range(len(rows)) for _ in range(steps)]
    for chosen, _, by_path in scorer.gradients(
        rows, numbers, [float(a) for _ in rows for a in points], 'integrated gradients'
    ):
        for i, row_L in zip(chosen, by_path, strict=False):
            total = totals[numbers[i]]
            total += weights[i % steps] * row_L[: len(total)]
    results = []
    for row, total, value, start in zip(
        rows, totals, values, scorer.values(rows, 'baselines', at='baseline'), strict=True
    ):
        words = _per_word(row, total)
        error = abs(float(words.sum() - (value - start)))
        results.append(Attribution(words, float(start), error))
    return results


def _leave_one_out(scorer: Scorer, rows: Sequence[Explainable], values: np.ndarray) -> list[Attribution]:
    shorter = [row.without({word}) for row in rows for word in range(len(row.words))]
    without = scorer.values(shorter, 'leave-one-out') if shorter else np.zeros(0)
    results, first = [], 0
    for row, value in zip(rows, values, strict=True):
        results.append(Attribution(value - without[first : first + len(row.words)]))
        first += len(row.words)
    return results


def _per_word(row: Explainable, per_token: np.ndarray) -> np.ndarray:
    return np.array([float(per_token[list(word.tokens)].sum()) for word in row.words])
