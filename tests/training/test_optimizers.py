"""Optimizers against ten lines of NumPy, and stacking against single layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from palm_jax.errors import UserError
from palm_jax.training import optimizers, schedules


def run(optimizer, params, gradients):
    state = optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {
        'embed': {'embedding': rng.normal(size=(11, 6)).astype(np.float32)},
        'final_norm': {'scale': np.ones(6, np.float32)},
        'stack': {
            'norm': {'scale': np.ones((3, 6), np.float32)},
            'mlp': {'in': {'gate': (rng.normal(size=(3, 6, 8)) * [[[0.1]], [[1]], [[10]]]).astype(np.float32)}},
            'attn': {'out': {'kernel': rng.normal(size=(3, 2, 4, 6)).astype(np.float32)}},
        },
    }


@pytest.fixture
def gradients(params):
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32) * 0.1, params) for _ in range(6)]


def numpy_adafactor(p, gradients, lr, stacked):
    """PaLM, section 5: no factorization, parameter scaling, β2 = 1 − k^−0.8, decay lr²; p and g in float64."""
    axes = tuple(range(1 if stacked else 0, p.ndim))
    m, v = np.zeros_like(p), np.zeros_like(p)
    for k, g in enumerate(gradients, start=1):
        beta2 = 1 - k**-0.8
        v = beta2 * v + (1 - beta2) * (g**2 + 1e-30)
        scale = np.maximum(1e-3, np.sqrt((p**2).mean(axis=axes, keepdims=True)))
        m = 0.9 * m + 0.1 * lr(k) * scale * g / np.sqrt(v)
        p = p - m - lr(k) ** 2 * p
    return p


def test_adafactor_is_the_papers(params, gradients):
    def lr(k):
        return 1e-2 * min(1, np.sqrt(3 / max(k - 1, 1)))

    ours = run(optimizers.adafactor(schedules.palm(1e-2, constant_steps=3)), params, gradients)
    clipped = []
    for grads in gradients:
        norm = np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in jax.tree.leaves(grads)))
        assert norm > 1  # so that clipping is under test
        clipped.append(jax.tree.map(lambda g, norm=norm: np.asarray(g, np.float64) / norm, grads))
    for path, p in jax.tree_util.tree_leaves_with_path(params):
        pick = lambda tree, path=path: dict(jax.tree_util.tree_leaves_with_path(tree))[path]  # noqa: E731
        stacked = path[0].key == 'stack'
        expected = numpy_adafactor(np.asarray(p, np.float64), [pick(g) for g in clipped], lr, stacked)
        np.testing.assert_allclose(pick(ours), expected, rtol=2e-5, atol=1e-7)


MAKERS = {
    'adafactor': lambda s: optimizers.adafactor(s, clip_norm=None),
    'adamw': lambda s: optimizers.adamw(s, clip_norm=None),
    'muon': lambda s: optimizers.muon(s, clip_norm=None),
}


@pytest.mark.parametrize('make', MAKERS.values(), ids=MAKERS)
def test_stacked_layers_train_as_if_alone(params, gradients, make):
    optimizer = make(schedules.constant(1e-2))
    together = run(optimizer, params, gradients)
    for i in range(3):
        layer = lambda tree, i=i: {**tree, 'stack': jax.tree.map(lambda x: x[i : i + 1], tree['stack'])}  # noqa: E731
        alone = run(optimizer, layer(params), [layer(g) for g in gradients])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            layer(together)['stack'],
            alone['stack'],
        )


def test_adamw_equals_numpy(params, gradients):
    ours = run(optimizers.adamw(schedules.constant(1e-2), clip_norm=None), params, gradients)
    for path in (('embed', 'embedding'), ('final_norm', 'scale')):
        p = np.asarray(params[path[0]][path[1]], np.float64)
        m = v = 0.0
        for k, grads in enumerate(gradients, start=1):
            g = np.asarray(grads[path[0]][path[1]], np.float64)
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
            step = m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.95**k)) + 1e-8)
            p = p - 1e-2 * step - 1e-2 * (0.0 if path[1] == 'scale' else 0.1) * p
        np.testing.assert_allclose(ours[path[0]][path[1]], p, rtol=1e-4, atol=1e-6)


def test_muon_orthogonalizes_what_it_should(params):
    """The first update of a matrix has singular values near one another; scales follow Adam."""
    optimizer = optimizers.muon(schedules.constant(1.0), clip_norm=None, weight_decay=0.0)
    rng = np.random.default_rng(3)
    grads = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for matrix in (
        updates['stack']['mlp']['in']['gate'][0],
        updates['stack']['attn']['out']['kernel'][0].reshape(8, 6),
    ):
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.max() / values.min() < 2.5
        np.testing.assert_allclose(np.sqrt(np.mean(np.square(matrix))), 0.2, rtol=0.3)
    adam = np.abs(updates['final_norm']['scale'])  # Adam's first step has one size whatever the gradient's
    np.testing.assert_allclose(adam, adam[0], rtol=1e-3)


def test_weight_decay_patterns(params):
    zero = jax.tree.map(np.zeros_like, params)
    after = run(optimizers.adamw(schedules.constant(0.5), weight_decay=0.2), params, [zero])
    np.testing.assert_allclose(after['embed']['embedding'], 0.9 * params['embed']['embedding'], rtol=1e-5)
    np.testing.assert_array_equal(after['stack']['norm']['scale'], params['stack']['norm']['scale'])
    with pytest.raises(UserError, match='stack/norm/scale'):
        optimizers.adafactor(schedules.constant(1.0), weight_decay_pattern='stak/.*').init(params)


def test_clipping_is_by_the_global_norm(params, gradients):
    huge = jax.tree.map(lambda g: 1000 * g, gradients[0])
    unit = jax.tree.map(lambda g: g / optax.global_norm(huge), huge)
    make = lambda clip: optimizers.adafactor(schedules.constant(1.0), clip_norm=clip, weight_decay_exponent=None)  # noqa: E731
    # The second moment normalises one step, so compare two steps of different size.
    clipped = run(make(1.0), params, [huge, gradients[1]])
    by_hand = run(
        make(None), params, [unit, jax.tree.map(lambda g: g / max(1, optax.global_norm(gradients[1])), gradients[1])]
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), clipped, by_hand)


def test_state_is_float32_for_half_precision_parameters(params):
    half = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), params)
    state = optimizers.adafactor(schedules.constant(1.0)).init(half)
    assert {x.dtype.name for x in jax.tree.leaves(state)} <= {'float32', 'int32'}
