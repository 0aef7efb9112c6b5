"""Metrics of the predictions of a head."""

import numpy as np
import pytest
from scipy import stats

from palm_jax.metrics import statistics
from palm_jax.metrics.statistics import calibration_error


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    scores = rng.normal(size=(200, 3)) + 1.5 * np.eye(3)[labels]
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return labels, p.argmax(1), p


def test_classes_by_hand(predictions):
    labels, predicted, p = predictions
    result = statistics.of_classes(labels, predicted, p)
    f1 = []
    for c in range(3):
        tp = np.sum((predicted == c) & (labels == c))
        precision, recall = tp / np.sum(predicted == c), tp / np.sum(labels == c)
        f1.append(2 * precision * recall / (precision + recall))
    np.testing.assert_allclose(result['accuracy'], np.mean(labels == predicted))
    np.testing.assert_allclose(result['macro_f1'], np.mean(f1))
    np.testing.assert_allclose(result['weighted_f1'], np.average(f1, weights=np.bincount(labels)))
    pairs = [np.mean(p[labels == c, c][:, None] > p[labels != c, c][None]) for c in range(3)]
    np.testing.assert_allclose(result['area_under_roc'], np.mean(pairs))
    assert next(iter(result)) == 'accuracy' and 0 < result['matthews'] < 1


def test_calibration_error_by_hand():
    confidence, correct = np.array([0.95, 0.85, 0.85, 0.15]), np.array([True, True, False, False])
    # bins (0.9, 1], (0.8, 0.9], (0.1, 0.2]: 1/4·0.05 + 2/4·0.35 + 1/4·0.15
    np.testing.assert_allclose(calibration_error(confidence, correct), 0.0125 + 0.175 + 0.0375)


def test_labels_count_when_all_are_right():
    labels, p = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), np.array([[0.9, 0.2], [0.8, 0.4], [0.1, 0.7]])
    result = statistics.of_label_sets(labels, (p > 0.5).astype(float), p)
    np.testing.assert_allclose(result['accuracy'], 2 / 3)
    np.testing.assert_allclose(result['area_under_roc'], 1.0)


def test_an_interval_needs_two_examples_and_a_metric_that_is_defined():
    assert statistics.interval(1, lambda rows: 1.0) is None
    assert statistics.interval(5, lambda rows: float('nan')) is None
    low, high = statistics.interval(2, lambda rows: float(rows.mean()))
    assert (low, high) == (0.0, 1.0)


def test_numbers_are_scipys():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=50)
    predicted = labels + rng.normal(size=50)
    result = statistics.of_numbers(labels, predicted)
    np.testing.assert_allclose(result['pearson'], stats.pearsonr(labels, predicted).statistic)
    np.testing.assert_allclose(result['spearman'], stats.spearmanr(labels, predicted).statistic)
    np.testing.assert_allclose(result['squared_error'], np.mean((labels - predicted) ** 2))
    assert np.isnan(statistics.of_numbers(labels, np.zeros(50))['pearson'])


def test_a_share_of_none_or_all_has_an_interval_too():
    z, n = 1.959964, 20  # Wilson: (p + z²/2n ± z·√(p(1 − p)/n + z²/4n²)) / (1 + z²/n), of p = 0: 0 to z² / (n + z²)
    np.testing.assert_allclose(statistics.interval_of_share(0, n), (0, z**2 / (n + z**2)), atol=1e-6)
    np.testing.assert_allclose(statistics.interval_of_share(n, n), (n / (n + z**2), 1), atol=1e-6)
