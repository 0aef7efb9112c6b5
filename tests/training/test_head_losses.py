"""Losses of heads against PyTorch and NumPy, through a model whose scores are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from palm_jax.errors import UserError
from palm_jax.training.head_losses import ClassLoss, LabelsLoss, NumberLoss


class Given:
    """Stands in for a model: its scores are its parameters."""

    def apply(self, variables, *inputs, **options):
        return variables['params']


def run(loss, scores, labels, weights):
    batch = {
        'decoder_input_tokens': np.zeros((len(labels), 1), np.int32),
        'decoder_segment_ids': np.ones((len(labels), 1), np.int32),
        'labels': labels,
        'label_weights': weights,
    }
    (total, metrics), gradient = jax.value_and_grad(lambda s: loss(Given(), s, batch), has_aux=True)(
        jnp.asarray(scores)
    )
    assert metrics['loss'].total == total
    return float(total), {k: v.value() for k, v in metrics.items()}, np.asarray(gradient)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 5)).astype(np.float32), rng.integers(0, 5, 8).astype(np.int32), rng.random(8, np.float32)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_class_loss_is_torchs_with_smoothing_and_weights(data, smoothing):
    scores, labels, weights = data
    t = torch.from_numpy(scores).requires_grad_()
    each = torch.nn.functional.cross_entropy(
        t, torch.from_numpy(labels).long(), reduction='none', label_smoothing=smoothing
    )
    expected = (each * torch.from_numpy(weights)).sum()
    expected.backward()
    total, metrics, gradient = run(ClassLoss(label_smoothing=smoothing), scores, labels, weights)
    np.testing.assert_allclose(total, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, t.grad.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics['accuracy'], np.average(scores.argmax(1) == labels, weights=weights), rtol=1e-5)


def test_focal_loss_is_the_formula(data):
    scores, labels, weights = data
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    right = p[np.arange(8), labels]
    total, _, _ = run(ClassLoss(focal_gamma=2.0), scores, labels, weights)
    np.testing.assert_allclose(total, (weights * (1 - right) ** 2 * -np.log(right)).sum(), rtol=1e-5)


def test_tokens_count_by_their_weights():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(2, 6, 3)).astype(np.float32), rng.integers(0, 3, (2, 6)).astype(np.int32)
    weights = np.ones((2, 6), np.float32)
    weights[1, 3:] = 0
    each = torch.nn.functional.cross_entropy(
        torch.from_numpy(scores).permute(0, 2, 1), torch.from_numpy(labels).long(), reduction='none'
    )
    total, _, _ = run(ClassLoss(), scores, labels, weights)
    np.testing.assert_allclose(total, (each.numpy() * weights).sum(), rtol=1e-5)


def test_labels_loss_is_torchs(data):
    scores, _, weights = data
    labels = (np.random.default_rng(1).random((8, 5)) < 0.4).astype(np.float32)
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(scores), torch.from_numpy(labels), reduction='none'
    )
    total, metrics, _ = run(LabelsLoss(), scores, labels, weights)
    np.testing.assert_allclose(total, (each.mean(1).numpy() * weights).sum(), rtol=1e-5)
    exact = ((scores > 0) == (labels > 0)).all(1)
    np.testing.assert_allclose(metrics['accuracy'], np.average(exact, weights=weights), rtol=1e-5)


def test_number_loss_is_the_mean_squared_error(data):
    scores, _, weights = data
    labels = np.linspace(-1, 1, 8, dtype=np.float32)
    total, metrics, _ = run(NumberLoss(), scores[:, :1], labels, weights)
    np.testing.assert_allclose(total, (weights * (scores[:, 0] - labels) ** 2).sum(), rtol=1e-5)
    np.testing.assert_allclose(
        metrics['absolute_error'], np.average(abs(scores[:, 0] - labels), weights=weights), rtol=1e-5
    )


@pytest.mark.parametrize('options', [{'label_smoothing': 1.0}, {'focal_gamma': -1.0}])
def test_what_makes_no_sense_is_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        ClassLoss(**options)


# Scores of 3 classes at which probabilities round to 0 and 1, and one where two are equal.
SATURATED = np.array(
    [[30, 0, -30], [-30, 90, 88], [1e4, -1e4, 0], [1e30, 0, -1e30], [-1e30, -1e30, 5], [7, 7, -7], [0.1, -0.2, 0.3]]
)


def focal(scores, label, gamma):
    """Value and gradient of the focal loss by its formula, with 1 − p as the sum of the others, in float64."""
    log_z = np.logaddexp.reduce(scores)
    others = np.delete(scores, label)
    log_p, log_q = scores[label] - log_z, np.logaddexp.reduce(others) - log_z
    q_gamma = np.exp(gamma * log_q)
    by_own_score = gamma * q_gamma * np.exp(log_p) * log_p - np.exp((gamma + 1) * log_q)
    gradient = -by_own_score * np.insert(np.exp(others - np.logaddexp.reduce(others)), label, 0)
    gradient[label] = by_own_score
    return -q_gamma * log_p, gradient


@pytest.mark.parametrize('gamma', [0.0, 0.05, 0.25, 0.5, 1.0, 1.5, 2.0, 5.0])
def test_class_loss_is_right_where_predictions_are_certain(gamma):
    for label in range(3):
        labels, weights = np.full(len(SATURATED), label, np.int32), np.ones(len(SATURATED), np.float32)
        total, _, gradient = run(ClassLoss(focal_gamma=gamma), SATURATED.astype(np.float32), labels, weights)
        values, gradients = zip(*(focal(row, label, gamma) for row in SATURATED), strict=True)
        np.testing.assert_allclose(total, sum(values), rtol=1e-5)
        np.testing.assert_allclose(gradient, gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_smoothed_class_loss_is_right_where_predictions_are_certain(gamma):
    scores, smoothing = SATURATED[[0, 1, 5, 6]], 0.3
    labels, weights = np.array([0, 2, 1, 2], np.int32), np.ones(4, np.float32)
    total, _, gradient = run(ClassLoss(smoothing, gamma), scores.astype(np.float32), labels, weights)
    value, expected = 0.0, np.zeros_like(scores)
    for row, label in enumerate(labels):
        for c in range(3):
            target = (1 - smoothing) * (c == label) + smoothing / 3
            of_class, its_gradient = focal(scores[row], c, gamma)
            value, expected[row] = value + target * of_class, expected[row] + target * its_gradient
    np.testing.assert_allclose(total, value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_a_single_class_has_no_loss():
    for gamma in (0.0, 0.5):
        total, _, gradient = run(
            ClassLoss(focal_gamma=gamma), np.ones((2, 1), np.float32), np.zeros(2, int), np.ones(2)
        )
        assert total == 0 and (gradient == 0).all()


def test_labels_loss_is_right_where_predictions_are_certain():
    scores = SATURATED.astype(np.float32)
    for labels in (np.zeros_like(scores), np.ones_like(scores)):
        t = torch.from_numpy(scores).double().requires_grad_()
        each = torch.nn.functional.binary_cross_entropy_with_logits(t, torch.from_numpy(labels).double())
        (3 * len(scores) / 3 * each).backward()
        total, _, gradient = run(LabelsLoss(), scores, labels, np.ones(len(scores), np.float32))
        np.testing.assert_allclose(total, len(scores) * each.item(), rtol=1e-5)
        np.testing.assert_allclose(gradient, t.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_number_loss_is_right_far_away():
    scores, labels = np.array([[1e9], [-1e9], [0]], np.float32), np.array([0, 1, 0], np.float32)
    total, _, gradient = run(NumberLoss(), scores, labels, np.ones(3, np.float32))
    np.testing.assert_allclose(total, 2e18, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, 0], [2e9, -2e9, 0], rtol=1e-6)
