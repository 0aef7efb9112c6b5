"""Losses of scores near the largest float32, where differences and squares overflow: all values are finite."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from palm_jax.models.kernels.cross_entropy import softmax_cross_entropy
from palm_jax.models.kernels.divergence import softmax_divergences, top_k_divergence
from palm_jax.training.contrast import in_batch_contrast, normalized, supervised_contrast
from palm_jax.training.head_losses import ClassLoss, LabelsLoss, NumberLoss
from palm_jax.training.loss_wrappers.fixmatch import FixMatch
from palm_jax.training.loss_wrappers.pseudo_label import PseudoLabel
from palm_jax.training.loss_wrappers.uda import UDA

LARGE = 3e38
SCORES = np.array(list(itertools.product([LARGE, -LARGE, 0, 1e20, 5], repeat=3)), np.float32)
OTHERS = SCORES[np.random.default_rng(0).permutation(len(SCORES))]
WEIGHTS = np.ones(len(SCORES), np.float32)
TEMPERATURES = [1e-38, 0.5, 1e30]


def finite(function, *arguments):
    """The value of a function and its gradients, which are all finite."""
    value, gradients = jax.value_and_grad(function, tuple(range(len(arguments))))(*map(jnp.asarray, arguments))
    assert np.isfinite(value), value
    for gradient in gradients:
        assert np.isfinite(gradient).all(), gradient[~np.isfinite(gradient)]
    return value, gradients


def of_scores(loss, labels):
    return lambda scores: loss.of_scores(scores, {'labels': labels, 'label_weights': WEIGHTS})[0]


@pytest.mark.parametrize(('smoothing', 'gamma'), [(0, 0), (0.1, 0), (0, 0.05), (0.1, 2.0)])
def test_class_loss(smoothing, gamma):
    labels = np.arange(len(SCORES), dtype=np.int32) % 3
    _, (gradient,) = finite(of_scores(ClassLoss(smoothing, gamma), labels), SCORES)
    if not smoothing and not gamma:  # a wrong prediction is corrected, however sure it is
        p = scipy.special.softmax(SCORES.astype(np.float64), axis=-1)
        certain = np.abs(SCORES).max(axis=-1) < 1e30
        np.testing.assert_allclose(gradient[certain], (p - np.eye(3)[labels])[certain], atol=1e-6)
        worst = int(np.flatnonzero((np.array([LARGE, -LARGE, 0], np.float32) == SCORES).all(axis=1))[0])
        np.testing.assert_allclose(gradient[worst], np.eye(3)[0] - np.eye(3)[labels[worst]], atol=1e-6)


@pytest.mark.parametrize('label', [0, 1])
def test_labels_loss(label):
    finite(of_scores(LabelsLoss(), np.full(SCORES.shape, label, np.float32)), SCORES)


@pytest.mark.parametrize('label', [LARGE, -LARGE, 0.5])
def test_number_loss(label):
    _, (gradient,) = finite(of_scores(NumberLoss(), np.full(len(SCORES), label, np.float32)), SCORES)
    assert (np.sign(gradient[:, 0]) == np.sign(SCORES[:, 0] / 4 - label / 4)).all()


@pytest.mark.parametrize('loss', [ClassLoss(), LabelsLoss(), NumberLoss()], ids=lambda loss: type(loss).__name__)
def test_divergences(loss):
    for number in (0, 1):
        finite(lambda p, q, number=number: loss.divergences_of_scores(p, q)[number].sum(), SCORES, OTHERS)


@pytest.mark.parametrize('method', [UDA(temperature=t) for t in TEMPERATURES] + [FixMatch(), PseudoLabel()])
def test_methods_for_texts_without_labels(method):
    finite(lambda strong: method.of_texts(jnp.asarray(OTHERS), strong)[0].sum(), SCORES)


@pytest.mark.parametrize('temperature', TEMPERATURES)
def test_contrast(temperature):
    rows = np.array([[LARGE] * 3, [-LARGE, LARGE, 0], [1e20, 1, 0], [0, 0, 0], [1, 2, 3], [1e-30, 0, 0]], np.float32)
    labels, used = np.array([0, 0, 1, 1, 0, 1]), np.ones(6, bool)
    finite(lambda x: supervised_contrast(x, labels, used, temperature).sum(), rows)
    finite(lambda x, y: in_batch_contrast(x, y, used, temperature)[0].sum(), rows, rows[::-1])
    exact = rows[:3].astype(np.float64)
    np.testing.assert_allclose(
        normalized(rows)[:3], exact / np.linalg.norm(exact, axis=1, keepdims=True), rtol=1e-6, atol=1e-15
    )


FEATURES = np.array([3e19, -3e19, 0, 1, 5, -5], np.float32).reshape(1, 6, 1)
MATRIX = np.array([[1], [-1], [0], [0.5]], np.float32) * np.float32(1e19)


@pytest.mark.parametrize('z_loss', [0.0, 1e-4, 1.0])
@pytest.mark.parametrize('chunk_length', [0, 2])
def test_language_model_loss(z_loss, chunk_length):
    targets, weights = np.array([[0, 0, 1, 2, 3, 1]], np.int32), np.ones((1, 6), np.float32)
    finite(lambda h, e: softmax_cross_entropy(h, e, targets, weights, 1.0, z_loss, chunk_length)[0], FEATURES, MATRIX)


def test_divergences_of_language_models():
    weights, ids = np.ones((1, 6), np.float32), np.tile(np.array([0, 1], np.int32), (1, 6, 1))
    finite(lambda p, q, e: sum(softmax_divergences(p, q, e, weights, 1.0, 2)), FEATURES, FEATURES[:, ::-1], MATRIX)
    for log_p in (np.log([0.5, 0.25]), [0, -np.inf]):
        teacher = np.tile(np.array(log_p, np.float32), (1, 6, 1))
        finite(lambda h, e, teacher=teacher: top_k_divergence(h, e, ids, teacher, weights, 1.0, 2), FEATURES, MATRIX)
