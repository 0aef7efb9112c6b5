"""What a sequence of tasks has cost and gained: measures of the matrix of scores, R_ij of task j after task i."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Measures of T tasks that were learned one after another; NaN where scores are missing.

    Attributes:
      average: mean score of all tasks at the end, 1/T·Σ_j R_Tj.
      forgetting: mean loss since the best earlier score, 1/(T − 1)·Σ_{j<T} max_{i<T} (R_ij − R_Tj) (Chaudhry et al.,
        arXiv 1801.10112); above 0 means that something was forgotten.
      backward: backward transfer, 1/(T − 1)·Σ_{j<T} (R_Tj − R_jj) (Lopez-Paz and Ranzato, arXiv 1706.08840); below 0
        means that later tasks have harmed earlier ones.
      forward: forward transfer, 1/(T − 1)·Σ_{j>1} (R_{j−1,j} − R_0j) (same paper), R_0j the score of task j before the
        first task; above 0 means that earlier tasks have helped before the task itself was trained.
    """

    average: float
    forgetting: float
    backward: float
    forward: float


def measure(scores: np.ndarray, smaller_is_better: bool = False) -> Transfer:
    """Return the measures of a sequence.

    Args:
      scores: scores [T + 1, T]; row 0 is that of the model before the first task, row i that after task i. NaN is a
        score that is missing.
      smaller_is_better: whether the scores are losses or errors. Differences are then taken the other way round, so
        that signs mean the same; `average` stays as it is.
    """
    first, after = scores[0], scores[1:]
    count, sign = scores.shape[1], -1.0 if smaller_is_better else 1.0
    if count < 2:
        return Transfer(_mean(after[-1]), math.nan, math.nan, math.nan)
    lost = sign * (after[:-1, :-1] - after[-1, :-1])
    return Transfer(
        average=_mean(after[-1]),
        forgetting=_mean(lost.max(axis=0)),
        backward=_mean(sign * (after[-1, :-1] - after.diagonal()[:-1])),
        forward=_mean(sign * (after.diagonal(1) - first[1:])),
    )


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values))
