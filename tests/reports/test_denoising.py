"""What is measured of a denoising model."""

from collections import Counter

import numpy as np
import pytest

from palm_jax.reports import denoising
from palm_jax.reports.denoising import best_constant, measurements


def test_the_best_constant_is_the_entropy_of_the_weighted_targets():
    targets = np.array([[5, 5, 6, 9], [5, 5, 7, 9]])
    weights = np.array([[1, 1, 1, 0], [1, 1, 1, 0]])
    batch = {'decoder_target_tokens': targets, 'decoder_loss_weights': weights}
    p = np.array([4, 1, 1]) / 6
    assert best_constant(Counter(denoising.targets(batch) * 2)) == pytest.approx(-(p * np.log(p)).sum())


def test_examples_and_label_metrics_are_shown():
    metrics = {'loss': 1.0, 'accuracy': 0.5, 'label_loss': 0.6931}
    measured = measurements(metrics, 2.5, [('a _ c', 'b', 'x')])
    assert measured.metrics == metrics and measured.details == {
        'best_constant': 2.5,
        'examples': [('a _ c', 'b', 'x')],
    }
    assert "read   'a _ c'\nhidden 'b'\nmodel  'x'" in measured.text == measured.samples
    assert measured.lines[0] == 'validation loss  1.0000 nats per target, 50.0% correct'
    assert measured.lines[2] == 'label loss       0.6931' and not measured.warnings
    assert 'loss 3.0000, and 2.5000 by the best constant' in measurements({**metrics, 'loss': 3.0}, 2.5, []).warnings[0]
