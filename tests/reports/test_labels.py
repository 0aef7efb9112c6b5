"""What is measured of heads: one class, several labels, or a number per text."""

import numpy as np
import pytest

from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number
from palm_jax.labels.single_label import SingleLabel
from palm_jax.reports.labels import evaluate

TEXTS = ['t0', 't1', 't2', 't3']


def test_classes():
    scores = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]))
    measured = evaluate(SingleLabel(), 0.4, ['a', 'b', 'c'], TEXTS, scores, np.array([0, 1, 1, 0]))
    assert list(measured.metrics)[:2] == ['loss', 'accuracy'] and measured.metrics['accuracy'] == 0.5
    low, high = measured.intervals['accuracy']
    assert low <= 0.5 <= high
    first = measured.predictions[0]
    assert (first['text'], first['label'], first['predicted']) == ('t0', 'a', 'a')
    assert first['probabilities'] == {'a': 0.7, 'b': 0.2, 'c': 0.1}
    assert measured.tables['Classes'][1:] == [
        ('a', '0.500', '0.500', '0.500', '2'),
        ('b', '1.000', '0.500', '0.667', '2'),
        ('c', '0.000', '0.000', '0.000', '0'),
    ]
    # The less likely the true class, the worse.
    assert [row[0] for row in measured.tables['The worst errors'][1:]] == ['t3', 't2']
    assert list(measured.figures) == ['confusion.png'] and 'precision' in measured.text


def test_label_sets_are_correct_as_a_whole():
    scores = np.array([[1.0, -1.0], [2.0, 2.0], [-1.0, -1.0], [-3.0, 1.0]])
    labels = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    measured = evaluate(LabelSet(), 0.4, ['a', 'b'], TEXTS, scores, labels)
    assert measured.metrics['accuracy'] == 0.5
    assert measured.predictions[1]['predicted'] == ['a', 'b'] and measured.predictions[2]['predicted'] == []
    assert [row[0] for row in measured.tables['The worst errors'][1:]] == ['t3', 't1']


def test_numbers():
    labels, predicted = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.5, 2.0, 2.0])
    measured = evaluate(Number(), 0.4, [], TEXTS, predicted[:, None], labels)
    assert measured.metrics['pearson'] == pytest.approx(np.corrcoef(labels, predicted)[0, 1])
    assert measured.metrics['absolute_error'] == pytest.approx(1.5 / 4)
    assert 'pearson' in measured.intervals
    assert [row[0] for row in measured.tables['The worst errors'][1:]] == ['t3', 't1', 't0', 't2']
