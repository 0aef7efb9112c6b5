"""Comparisons of scores: in pairs, of two models on the same examples, and apart, of one model on two sets of examples.

Both have an exact or permutation test, and an interval.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from palm_jax.metrics.statistics import difference_of_shares

_BOOTSTRAPS = 10_000
_LEVEL = 0.05
_RESAMPLES = 9_999
_PERMUTATION = 'the permutation test'
ACCURACY = 'accuracy'  # the metric of examples that are either right or wrong
SENTENCES = 'sentences with all entities right'
_RIGHT_OR_WRONG = (ACCURACY, SENTENCES)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two sets of scores: of two runs on the same examples, see `compare`, or of other examples, see `compare_apart`.

    Attributes:
      first: a score per example, higher is better: 1 for right and 0 for wrong, minus the absolute error of a
        number, or the score of a generated text.
      second: scores of the second run.
      metric: name of the mean score.
      lower: lower end of the 95% interval of mean(second) − mean(first); infinite for a single example.
      upper: upper end of the interval.
      only_first: number of examples that only the first run gets right; None if scores are not right or wrong, or are
        not of the same examples.
      only_second: number of examples that only the second run gets right; None likewise.
      p_value: two-sided p-value of `test`.
      test: name of the test.
    """

    first: np.ndarray
    second: np.ndarray
    metric: str
    lower: float
    upper: float
    only_first: int | None
    only_second: int | None
    p_value: float
    test: str

    @property
    def gain(self) -> float:
        """The mean of the second scores minus that of the first."""
        return float(self.second.mean() - self.first.mean())

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the gain; None for a single example."""
        return (self.lower, self.upper) if np.isfinite(self.lower) else None

    @property
    def differ(self) -> bool:
        """Whether the difference is significant at 5%, by the interval and by the test."""
        return (self.lower > 0 or self.upper < 0) and self.p_value < _LEVEL


def compare(first: np.ndarray, second: np.ndarray, metric: str = ACCURACY, seed: int = 0) -> Comparison:
    """Compare scores [E] of the same examples.

    McNemar's exact test (1947): of the b + c examples that only one run gets right, under the null hypothesis each
    run gets half; p = P(Binomial(b + c, 1/2) at least as far from half as b).

    Scores that are not right or wrong are compared by the paired permutation test (Fisher 1935, Pitman 1937): under the
    null hypothesis the sign of each difference is random; p is the share of sign changes whose mean is at least as far
    from 0, of all of them or of 9,999 drawn ones. Of right and wrong it is McNemar's exact test.
    """
    difference = second - first
    rng = np.random.default_rng(seed)
    means = np.array([difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(_BOOTSTRAPS)])
    lower, upper = np.percentile(means, [100 * _LEVEL / 2, 100 * (1 - _LEVEL / 2)])
    if len(difference) < 2:
        lower, upper = -np.inf, np.inf
    if metric not in _RIGHT_OR_WRONG:
        p, test = _sign_changes(difference, seed), 'the paired permutation test'
        return Comparison(first, second, metric, float(lower), float(upper), None, None, p, test)
    b, c = int(np.sum(difference < 0)), int(np.sum(difference > 0))
    p = float(stats.binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0
    return Comparison(first, second, metric, float(lower), float(upper), b, c, p, "McNemar's exact test")


def compare_apart(first: np.ndarray, second: np.ndarray, metric: str = ACCURACY, seed: int = 0) -> Comparison:
    """Compare scores [E] and [F] of examples that have nothing to do with each other.

    Right and wrong are compared by Fisher's exact test, with Newcombe's interval, see `difference_of_shares`. Other
    scores are compared by the permutation test of the difference of the means (all divisions of the scores into two
    sets of these sizes, or 9,999 drawn ones), with a bootstrap interval.
    """
    if metric in _RIGHT_OR_WRONG:
        counts = [(int(scores.sum()), len(scores)) for scores in (first, second)]
        (lower, upper), p = difference_of_shares(*counts)
        return Comparison(first, second, metric, lower, upper, None, None, p, "Fisher's exact test")
    if min(len(first), len(second)) < 2:  # a single score says nothing of how others vary
        return Comparison(first, second, metric, -np.inf, np.inf, None, None, 1.0, _PERMUTATION)
    rng = np.random.default_rng(seed)
    draw = lambda scores: scores[rng.integers(0, len(scores), len(scores))].mean()  # noqa: E731
    means = np.array([draw(second) - draw(first) for _ in range(_BOOTSTRAPS)])
    lower, upper = np.percentile(means, [100 * _LEVEL / 2, 100 * (1 - _LEVEL / 2)])
    found = stats.permutation_test(
        (first, second),
        lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis),
        permutation_type='independent',
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=500,
        rng=seed,
    )
    p = float(found.pvalue)
    return Comparison(first, second, metric, float(lower), float(upper), None, None, p, _PERMUTATION)


def _sign_changes(difference: np.ndarray, seed: int) -> float:
    """Return the two-sided p-value of the paired permutation test of the mean difference."""
    changed = difference[difference != 0]
    if len(changed) < 2:
        return 1.0  # of one difference, either sign is as likely
    found = stats.permutation_test(
        (changed,), np.mean, permutation_type='samples', vectorized=True, n_resamples=_RESAMPLES, batch=500, rng=seed
    )
    return float(found.pvalue)
