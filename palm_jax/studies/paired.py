"""Effects that are paired by seed: their interval, their p-value, and its correction for many comparisons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

_LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Effect:
    """The mean difference of paired values.

    Attributes:
      mean: mean of the differences.
      lower: lower end of the 95% interval of the mean; NaN for one pair.
      upper: upper end of the interval; NaN for one pair.
      p_value: two-sided p-value of the paired t-test; NaN for one pair.
      pairs: number of pairs.
    """

    mean: float
    lower: float
    upper: float
    p_value: float
    pairs: int


def effect(values: Sequence[float], baseline: Sequence[float]) -> Effect:
    """Return the effect of paired values over their baseline, by Student's t with n - 1 degrees of freedom.

    Args:
      values: values, one a pair.
      baseline: values of the baseline, in the same order.
    """
    differences = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    mean, n = float(differences.mean()), len(differences)
    if n < 2:
        return Effect(mean, math.nan, math.nan, math.nan, n)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    margin = float(stats.t.ppf(1 - _LEVEL / 2, n - 1)) * error
    if error == 0:  # the same difference with every seed
        return Effect(mean, mean, mean, 1.0 if mean == 0 else 0.0, n)
    return Effect(mean, mean - margin, mean + margin, float(2 * stats.t.sf(abs(mean) / error, n - 1)), n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979).

    In ascending order, p̃_i = max over j ≤ i of min(1, (m - j + 1) · p_j). NaN stays, and does not count.
    """
    adjusted, order = (
        list(p_values),
        sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=p_values.__getitem__),
    )
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
