"""Metrics of groups by fairlearn: how often a label is given, how often the model is right, and how far groups differ.

- Demographic parity: the difference of the shares of a group that are given a label, and the ratio of the smallest to
  the largest (four fifths are a common limit of regulators).
- Equalized odds (Hardt et al. 2016, arXiv 1610.02413): the larger of the differences of true and false positive rates.
- The worst group: the lowest score of a group, beside the score of all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from palm_jax.errors import UserError

_BOOTSTRAPS = 500
SMALL = 20  # rows of a group, below which its numbers say little


@dataclasses.dataclass(frozen=True)
class Gap:
    """How far groups are apart in one metric.

    Attributes:
      metric: name of the metric.
      label: label that it is about; empty for all.
      value: difference of the groups that are farthest apart.
      low: lower end of its 95% bootstrap interval.
      high: upper end of its interval.
      lowest: group with the lowest value.
      highest: group with the highest value.
    """

    metric: str
    label: str
    value: float
    low: float
    high: float
    lowest: str
    highest: str


@dataclasses.dataclass(frozen=True)
class Groups:
    """What was found about the groups of one column.

    Attributes:
      column: name of the column, of several joined by ×.
      counts: number of rows of each group.
      scores: mean score of each group.
      metric: name of the mean score.
      overall: mean score of all rows.
      shares: share of each group that is given a label, by label and group; empty for numbers.
      gaps: differences between groups, the largest first within each metric.
      ratio: smallest over largest share of the label whose shares differ most; None for numbers.
    """

    column: str
    counts: Mapping[str, int]
    scores: Mapping[str, float]
    metric: str
    overall: float
    shares: Mapping[str, Mapping[str, float]]
    gaps: tuple[Gap, ...]
    ratio: float | None

    @property
    def worst(self) -> str:
        """The group with the lowest score."""
        return min(self.scores, key=lambda group: self.scores[group])


def compare_groups(
    column: str,
    groups: Sequence[str],
    scores: np.ndarray,
    metric: str,
    labels: Sequence[frozenset[str]] | None = None,
    predicted: Sequence[frozenset[str]] | None = None,
    seed: int = 0,
) -> Groups:
    """Compare the groups of a column.

    Args:
      column: name of the column.
      groups: group of each of E rows.
      scores: score of each row, higher is better.
      metric: name of the mean score.
      labels: right labels of each row; None for numbers.
      predicted: predicted labels of each row; None for numbers.
      seed: seed of the bootstrap.

    Raises:
      UserError: fairlearn is not installed, or there is one group only.
    """
    kinds = sorted(set(groups))
    if len(kinds) < 2:
        raise UserError(f'--groups={column}: every row has {kinds[0]!r}; two groups are needed.')
    of_group = np.array(groups)
    everyone = np.ones(len(groups), bool)
    frame = _frame({'score': _mean}, scores, scores, of_group)
    found = {str(group): float(value) for group, value in frame.by_group['score'].items()}
    gaps = [_gap(frame, 'score', metric, '', _interval(scores, of_group, everyone, seed))]
    shares: dict[str, dict[str, float]] = {}
    if labels is not None and predicted is not None:
        names = sorted({name for row in (*labels, *predicted) for name in row})
        for name in names:
            pair = [np.array([name in row for row in rows], int) for rows in (labels, predicted)]
            rates = _frame(_rates(), pair[0], pair[1], of_group)
            shares[name] = {str(group): float(v) for group, v in rates.by_group['share'].items()}
            parts = {'share': everyone, 'true positives': pair[0] == 1, 'false positives': pair[0] == 0}
            of_label = [
                _gap(
                    rates,
                    rate,
                    'demographic parity' if rate == 'share' else 'equalized odds',
                    name,
                    _interval(pair[1].astype(float), of_group, part, seed),
                )
                for rate, part in parts.items()
            ]
            gaps += [of_label[0], max(of_label[1:], key=lambda gap: gap.value)]
    order = {name: number for number, name in enumerate((metric, 'demographic parity', 'equalized odds'))}
    gaps.sort(key=lambda gap: (order[gap.metric], -gap.value))
    ratio = None
    if shares:
        widest = next(gap.label for gap in gaps if gap.metric == 'demographic parity')
        of_widest = shares[widest].values()
        ratio = min(of_widest) / max(of_widest) if max(of_widest) else None
    counts = {kind: int((of_group == kind).sum()) for kind in kinds}
    return Groups(column, counts, found, metric, float(scores.mean()), shares, tuple(gaps), ratio)


def _mean(y_true: Any, y_pred: Any) -> float:
    del y_true
    return float(np.mean(y_pred))


def _rates() -> dict[str, Any]:
    from fairlearn.metrics import false_positive_rate, selection_rate, true_positive_rate

    return {'share': selection_rate, 'true positives': true_positive_rate, 'false positives': false_positive_rate}


def _frame(metrics: dict[str, Any], y_true: np.ndarray, y_pred: np.ndarray, groups: np.ndarray) -> Any:
    try:
        from fairlearn.metrics import MetricFrame
    except ImportError:
        raise UserError('fairlearn is not installed: pip install "palm_jax[fairness]"') from None
    return MetricFrame(metrics=metrics, y_true=y_true, y_pred=y_pred, sensitive_features=groups)


def _interval(values: np.ndarray, groups: np.ndarray, part: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the spread of the groups' means over a part of the rows."""
    codes = np.unique(groups, return_inverse=True)[1][part]
    chosen, rng, count = values[part], np.random.default_rng(seed), int(codes.max(initial=0)) + 1
    spreads = []
    for _ in range(_BOOTSTRAPS if len(chosen) else 0):
        rows = rng.integers(0, len(chosen), len(chosen))
        sizes = np.bincount(codes[rows], minlength=count)
        means = np.bincount(codes[rows], chosen[rows], minlength=count)[sizes > 0] / sizes[sizes > 0]
        spreads.append(means.max() - means.min())
    low, high = np.quantile(spreads, (0.025, 0.975)) if spreads else (0.0, 0.0)
    return float(low), float(high)


def _gap(frame: Any, name: str, metric: str, label: str, interval: tuple[float, float]) -> Gap:
    values = frame.by_group[name]
    difference = float(frame.difference()[name])
    return Gap(metric, label, difference, *interval, str(values.idxmin()), str(values.idxmax()))
