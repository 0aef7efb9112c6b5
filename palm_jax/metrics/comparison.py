"""The paired comparison of two models on the same examples: McNemar's exact test and a paired bootstrap."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

_BOOTSTRAPS = 10_000
_LEVEL = 0.05
ACCURACY = 'accuracy'  # the metric of examples that are either right or wrong


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs on the same examples.

    Attributes:
      first: a score per example, higher is better: 1 for right and 0 for wrong, minus the absolute error of a
        number, or the score of a generated text.
      second: scores of the second run.
      metric: name of the mean score.
      lower: lower end of the 95% bootstrap interval of mean(second) − mean(first); infinite for a single example.
      upper: upper end of the interval.
      only_first: number of examples that only the first run gets right; None if scores are not right or wrong.
      only_second: number of examples that only the second run gets right; None likewise.
      p_value: two-sided p-value of McNemar's exact test; None likewise.
    """

    first: np.ndarray
    second: np.ndarray
    metric: str
    lower: float
    upper: float
    only_first: int | None
    only_second: int | None
    p_value: float | None

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
        """Whether the difference is significant at 5%, by both tests if there are two."""
        outside = self.lower > 0 or self.upper < 0
        return outside and (self.p_value is None or self.p_value < _LEVEL)


def compare(first: np.ndarray, second: np.ndarray, metric: str = ACCURACY, seed: int = 0) -> Comparison:
    """Compare scores [E] of the same examples.

    McNemar's exact test (1947): of the b + c examples that only one run gets right, under the null hypothesis each
    run gets half; p = P(Binomial(b + c, 1/2) at least as far from half as b).
    """
    difference = second - first
    rng = np.random.default_rng(seed)
    means = np.array([difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(_BOOTSTRAPS)])
    lower, upper = np.percentile(means, [100 * _LEVEL / 2, 100 * (1 - _LEVEL / 2)])
    if len(difference) < 2:
        lower, upper = -np.inf, np.inf
    if metric != ACCURACY:
        return Comparison(first, second, metric, float(lower), float(upper), None, None, None)
    b, c = int(np.sum(difference < 0)), int(np.sum(difference > 0))
    p = float(stats.binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0
    return Comparison(first, second, metric, float(lower), float(upper), b, c, p)
