"""R-Drop against its formula in NumPy, for every kind of prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from palm_jax.errors import UserError
from palm_jax.training.loss_wrappers.r_drop import RDrop
from tests.support.wrapped import HEADS, KEY, LOSSES, build, features, inputs_of, outcome

ALPHA = 0.7


def predictions(model, params, batch, kind):
    """Scores or logits of every row with two dropout masks, from one pass over doubled rows: two arrays [B, ...]."""
    doubled = {name: np.repeat(x, 2, axis=0) for name, x in batch.items()}
    arguments = doubled['decoder_input_tokens'], None, doubled.get('decoder_segment_ids'), None
    method = '__call__' if kind == 'words' else 'scores'
    outputs = jax.jit(
        lambda params: model.apply(
            {'params': params}, *arguments, deterministic=False, rngs={'dropout': KEY}, method=method
        )
    )(params)
    return np.asarray(outputs[0::2], np.float64), np.asarray(outputs[1::2], np.float64)


def divergence(p, q, kind):
    """Mean of KL(p ‖ q) and KL(q ‖ p) of each target, [B] or [B, L]."""
    if kind == 'number':
        return (p - q)[:, 0] ** 2
    if kind == 'labels':
        p, q = (np.stack([scipy.special.expit(x), scipy.special.expit(-x)], axis=-1) for x in (p, q))
        return scipy.special.rel_entr(p, q).sum(-1).mean(-1) / 2 + scipy.special.rel_entr(q, p).sum(-1).mean(-1) / 2
    p, q = scipy.special.softmax(p, axis=-1), scipy.special.softmax(q, axis=-1)
    return (scipy.special.rel_entr(p, q) + scipy.special.rel_entr(q, p)).sum(-1) / 2


def task_loss(p, batch, kind):
    """Weighted sum of the task's own loss."""
    if kind == 'words':
        weights, targets = batch['decoder_loss_weights'], batch['decoder_target_tokens']
        log_z = scipy.special.logsumexp(p, axis=-1)
        nll = log_z - np.take_along_axis(p, targets[..., None], axis=-1)[..., 0]
        return (weights * (nll + 1e-4 * log_z**2)).sum()
    weights, labels = batch['label_weights'], batch['labels']
    if kind == 'number':
        return (weights * (p[:, 0] - labels) ** 2).sum()
    if kind == 'labels':
        nll = np.logaddexp(0, -p) * labels + np.logaddexp(0, p) * (1 - labels)
        return (weights * nll.mean(-1)).sum()
    nll = scipy.special.logsumexp(p, axis=-1) - np.take_along_axis(p, labels[..., None], axis=-1)[..., 0]
    return (weights * nll).sum()


FAST = ('words', 'class')


@pytest.mark.parametrize(
    'kind', [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in HEADS]
)
def test_the_formula(kind):
    model, _, params = build(kind)
    batch = features(kind)
    weights = batch['decoder_loss_weights' if kind == 'words' else 'label_weights']
    value, metrics, _ = outcome(kind, (RDrop(ALPHA),))
    p, q = predictions(model, params, batch, kind)
    between = (weights * divergence(p, q, kind)).sum()
    expected = (task_loss(p, batch, kind) + task_loss(q, batch, kind)) / 2 + ALPHA * between
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(metrics['divergence'].value(), between / weights.sum(), rtol=1e-4)
    assert metrics['loss'].count == weights.sum() and between > 1e-4


@pytest.mark.parametrize('kind', ['class', 'labels', 'number'])
def test_the_divergences_of_scores(kind):
    p, q = np.random.default_rng(0).normal(size=(2, 5, 1 if kind == 'number' else 3), scale=2)
    both = LOSSES[kind].divergences_of_scores(jnp.asarray(p), jnp.asarray(q))
    np.testing.assert_allclose((both[0] + both[1]) / 2, divergence(p, q, kind), rtol=1e-5)
    one = LOSSES[kind].divergences_of_scores(jnp.asarray(q), jnp.asarray(p))[0]
    np.testing.assert_allclose(both[1], one, rtol=1e-5)


def test_the_gradient_of_the_divergence_is_that_of_finite_differences():
    model, _, params = build('words')
    loss = LOSSES['words']
    batch = inputs_of(model, params, features('words')).batch
    h = jax.random.normal(jax.random.key(1), (2, 4, 12, 24))
    divergences = jax.jit(lambda h: loss.divergences(h[0], h[1], model, params, batch))
    gradient = jax.jit(jax.grad(lambda h: divergences(h)[0] + 2 * divergences(h)[1]))(h)
    direction = jax.random.normal(jax.random.key(2), h.shape)
    ends = [np.asarray(divergences(h + s * 1e-2 * direction), np.float64) @ (1, 2) for s in (1, -1)]
    np.testing.assert_allclose((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-2, rtol=2e-3)


def test_a_model_without_dropout_is_refused():
    model, *_ = build('class', dropout_rate=0.0)
    with pytest.raises(UserError, match=r'--gin.DROPOUT_RATE=0.1'):
        RDrop().check(model)
    RDrop(alpha=0.0).check(model)
