"""The chunked cross-entropy against the plain one and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.training.losses import LanguageModelLoss, softmax_cross_entropy
from tests.support.models import applied

B, L, D, V = 3, 37, 16, 101
SCALE, Z = D**-0.5, 1e-2


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    h, e = rng.normal(size=(B, L, D)), rng.normal(size=(V, D)) * 3
    targets, weights = rng.integers(0, V, (B, L)), rng.integers(0, 3, (B, L)) / 2
    return h.astype(np.float32), e.astype(np.float32), targets.astype(np.int32), weights.astype(np.float32)


def plain(h, e, targets, weights):
    logits = SCALE * jnp.einsum('BLD,VD->BLV', h, e)
    log_p = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(weights * (nll + Z * jax.nn.logsumexp(logits, axis=-1) ** 2))


@pytest.mark.parametrize('skip', [False, True])
@pytest.mark.parametrize('chunk', [0, 1, 8, 36, 37, 64])
def test_value_and_gradient_equal_the_plain_loss(arrays, chunk, skip):
    h, e, targets, weights = arrays

    def chunked(h, e):
        return softmax_cross_entropy(h, e, targets, weights, SCALE, Z, chunk, skip)[0]

    value, grads = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1)))(h, e)
    expected, expected_grads = jax.value_and_grad(plain, argnums=(0, 1))(h, e, targets, weights)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(chunked(h, e), expected, rtol=1e-6)  # without a gradient: another path
    for ours, theirs in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_chunks_without_weight_are_not_computed(arrays):
    h, e, targets, _ = arrays
    counted, rng = np.zeros((B, L), bool), np.random.default_rng(1)
    for row in counted:
        row[rng.choice(L, 16, replace=False)] = True
    poisoned = np.where(counted[..., None], h, np.nan)  # 0 · NaN is NaN wherever it is computed

    def loss(h, e, skip):
        return softmax_cross_entropy(h, e, targets, counted.astype(np.float32), SCALE, Z, 8, skip)[0]

    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(poisoned, e, True)
    expected, expected_grads = jax.value_and_grad(loss, argnums=(0, 1))(h, e, False)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert np.isnan(loss(poisoned, e, False))


def test_metrics_equal_numpy(arrays):
    h, e, targets, weights = (np.asarray(a, np.float64) for a in arrays)
    targets = targets.astype(int)
    nll = z = correct = 0.0
    for b in range(B):
        for i in range(L):
            logits = SCALE * e @ h[b, i]
            log_z = np.log(np.exp(logits).sum())
            nll += weights[b, i] * (log_z - logits[targets[b, i]])
            z += weights[b, i] * Z * log_z**2
            correct += weights[b, i] * (logits.argmax() == targets[b, i])
    loss, sums = softmax_cross_entropy(*arrays, SCALE, Z, 10)
    np.testing.assert_allclose(sums, (nll, z, correct), rtol=1e-5)
    np.testing.assert_allclose(loss, nll + z, rtol=1e-5)


def test_accuracy_counts_the_first_of_the_largest_logits(arrays):
    h, e, _, weights = arrays
    e = np.repeat(e[: V // 2], 2, axis=0)  # ids 2i and 2i + 1 always tie
    first = (h @ e.T).argmax(axis=-1).astype(np.int32)
    for targets, share in ((first, 1.0), (first + 1, 0.0)):
        _, (_, _, correct) = softmax_cross_entropy(h, e, targets, weights, SCALE, Z, 10)
        np.testing.assert_allclose(correct, share * weights.sum(), rtol=1e-6)


def test_an_upstream_factor_scales_the_gradient(arrays):
    h, e, targets, weights = arrays
    once = jax.grad(lambda h: softmax_cross_entropy(h, e, targets, weights, SCALE, Z, 8)[0])(h)
    thrice = jax.grad(lambda h: 3 * softmax_cross_entropy(h, e, targets, weights, SCALE, Z, 8)[0])(h)
    np.testing.assert_allclose(3 * once, thrice, rtol=1e-6)


def test_no_array_of_all_logits_exists(micro):
    """The largest array of a gradient step over a large vocabulary stays below [B, L, V]."""
    vocab, length = 5000, 128
    model, params = micro(vocab_size=vocab, num_layers=1)
    tokens = np.zeros((1, length), np.int32)
    batch = {f'decoder_{n}': tokens for n in ('input_tokens', 'target_tokens', 'loss_weights')}

    def largest(chunk):
        grad = jax.grad(lambda p: LanguageModelLoss(chunk_length=chunk)(model, p, batch)[0])
        return max(
            (v.aval.size for eqn in _equations(jax.make_jaxpr(grad)(params).jaxpr) for v in eqn.outvars), default=0
        )

    assert largest(0) >= length * vocab
    assert largest(16) < length * vocab / 2


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, 'jaxpr', inner)
                if hasattr(inner, 'eqns'):
                    yield from _equations(inner)


def test_weights_and_the_count(micro, batch):
    model, params = micro()
    loss = LanguageModelLoss(z_loss=0.0, chunk_length=16)
    total, metrics = loss(model, params, batch)
    assert float(metrics['loss'].count) == batch['decoder_loss_weights'].sum()
    changed = dict(
        batch, decoder_target_tokens=np.where(batch['decoder_loss_weights'], batch['decoder_target_tokens'], 5)
    )
    np.testing.assert_allclose(total, loss(model, params, changed)[0], rtol=1e-6)  # unweighted targets do not matter


def test_z_loss_is_the_papers(micro, batch):
    """1e-4 · log² Z by default."""
    model, params = micro()
    logits = np.asarray(applied(model, params, batch['decoder_input_tokens']), np.float64)
    log_z = np.log(np.exp(logits).sum(-1))
    expected = 1e-4 * np.sum(batch['decoder_loss_weights'] * log_z**2)
    np.testing.assert_allclose(LanguageModelLoss()(model, params, batch)[1]['z_loss'].total, expected, rtol=1e-4)


@pytest.mark.parametrize('chunk', [0, 8])
def test_value_and_gradient_are_right_where_predictions_are_certain(arrays, chunk):
    """Logits of thousands, against the formula in float64."""
    h, e, _, weights = arrays
    h, e = np.sign(h) * 50, np.sign(e) * 50
    logits = SCALE * np.einsum('BLD,VD->BLV', h.astype(float), e.astype(float))
    assert abs(logits).max() > 8_000
    log_z = np.logaddexp.reduce(logits, axis=-1)
    for targets in (logits.argmax(-1), logits.argmin(-1)):
        value, gradient = jax.value_and_grad(
            lambda h, targets=targets: softmax_cross_entropy(h, e, targets, weights, SCALE, 1e-4, chunk)[0]
        )(h)
        nll = log_z - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
        np.testing.assert_allclose(value, np.sum(weights * (nll + 1e-4 * log_z**2)), rtol=1e-5)
        by_logit = (1 + 2e-4 * log_z)[..., None] * np.exp(logits - log_z[..., None]) - np.eye(V)[targets]
        expected = SCALE * weights[..., None] * (by_logit @ e.astype(float))
        # log Z has the resolution of float32, 5e-4 here.
        np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)
