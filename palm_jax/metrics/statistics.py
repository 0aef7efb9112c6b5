"""Metrics of predicted classes, label sets, numbers and entities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, fisher_exact, spearmanr
from sklearn import metrics as sk

BOOTSTRAPS, _CONFIDENCE = 1000, 0.95


def interval(
    num_examples: int, metric: Callable[[np.ndarray], float], bootstraps: int = BOOTSTRAPS
) -> tuple[float, float] | None:
    """Return the 95% bootstrap interval of metric(rows), which takes indices of examples drawn with replacement.

    It is None for fewer than two examples, or a metric that no draw defines.
    """
    if num_examples < 2:
        return None
    rng = np.random.default_rng(0)
    values = [metric(rng.integers(0, num_examples, num_examples)) for _ in range(bootstraps)]
    if np.isnan(values).all():
        return None
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def interval_of_share(count: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of count / total; it has a width even where the share is 0 or 1."""
    found = binomtest(count, total).proportion_ci(_CONFIDENCE, method='wilson')
    return float(found.low), float(found.high)


def difference_of_shares(first: tuple[int, int], second: tuple[int, int]) -> tuple[tuple[float, float], float]:
    """Return the 95% interval of the second of two independent shares minus the first, and the p-value.

    The interval is Newcombe's (1998, method 10: from Wilson's intervals of the two), the p-value that of Fisher's exact
    test.

    Args:
      first: count and total of the first share.
      second: the same of the second.
    """
    (p1, (l1, u1)), (p2, (l2, u2)) = ((k / n, interval_of_share(k, n)) for k, n in (first, second))
    lower = p2 - p1 - math.hypot(p2 - l2, u1 - p1)
    upper = p2 - p1 + math.hypot(u2 - p2, p1 - l1)
    return (lower, upper), float(fisher_exact([[k, n - k] for k, n in (first, second)]).pvalue)


def of_classes(labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return metrics of one class per example.

    `area_under_roc` is the one-vs-rest mean over the classes that some examples have and some do not;
    `calibration_error` is the expected calibration error with ten bins of confidence (Guo et al., arXiv 1706.04599).

    Args:
      labels: true classes, int [E].
      predicted: predicted classes, int [E].
      probabilities: predicted probabilities, float [E, C].
    """
    one_hot = np.eye(probabilities.shape[1])[labels]
    return _of_labels(labels, predicted, probabilities, one_hot) | {
        'matthews': float(sk.matthews_corrcoef(labels, predicted)),
        'calibration_error': calibration_error(probabilities.max(axis=1), predicted == labels),
    }


def of_label_sets(labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return metrics of label sets, all [E, C]; `accuracy` counts the examples with exactly the right set."""
    return _of_labels(labels, predicted, probabilities, labels)


def _of_labels(
    labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, one_hot: np.ndarray
) -> dict[str, float]:
    result = {'accuracy': float(sk.accuracy_score(labels, predicted))}
    for average in ('macro', 'weighted'):
        p, r, f, _ = sk.precision_recall_fscore_support(labels, predicted, average=average, zero_division=0)
        result |= {f'{average}_f1': float(f), f'{average}_precision': float(p), f'{average}_recall': float(r)}
    mixed = [c for c in range(one_hot.shape[1]) if 0 < one_hot[:, c].sum() < len(one_hot)]
    areas = [sk.roc_auc_score(one_hot[:, c], probabilities[:, c]) for c in mixed]
    return result | {'area_under_roc': float(np.mean(areas)) if areas else float('nan')}


def of_numbers(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return correlations and errors of numbers [E]; the correlation with a constant is NaN."""
    return {
        'pearson': pearson(labels, predicted),
        'spearman': spearman(labels, predicted),
        'squared_error': float(np.mean(np.square(predicted - labels))),
        'absolute_error': float(np.mean(np.abs(predicted - labels))),
    }


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation; NaN if either is constant."""
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and np.ptp(a) and np.ptp(b) else float('nan')


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation; NaN if either is constant."""
    return float(spearmanr(a, b).statistic) if len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0 else float('nan')


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of right examples; a label set is right if all of its labels are."""
    same = labels == predicted
    return float(np.mean(same if same.ndim == 1 else same.all(axis=1)))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    """Return Σ_b n_b / n · |accuracy_b − confidence_b| over equal bins of confidence (b−1, b]/bins."""
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [
        np.sum(index == b) * abs(correct[index == b].mean() - confidence[index == b].mean())
        for b in range(bins)
        if np.any(index == b)
    ]
    return float(np.sum(gaps) / len(confidence))


def precision_recall_f1(num_right: float, num_predicted: float, num_true: float) -> tuple[float, float, float]:
    """Return precision, recall and F1; 0 where nothing is predicted or true."""
    precision = num_right / num_predicted if num_predicted else 0.0
    recall = num_right / num_true if num_true else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if num_right else 0.0


def entity_counts(true: Sequence[Any], predicted: Sequence[Any]) -> tuple[int, int, int]:
    """Return (right, predicted, true) counts of a sentence's entities; right ones have the same type and words."""
    return len(set(true) & set(predicted)), len(set(predicted)), len(set(true))
