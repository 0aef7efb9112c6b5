"""What keeps fine-tuning near the base, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.training import finetuning, optimizers, schedules

RATE, DECAY, PULL = 0.1, 0.5, 0.3


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    shapes = {'embed': {'e': (5, 2)}, 'stack': {'w': (3, 2, 2)}, 'final_norm': {'scale': (2,)}, 'head': {'k': (2, 2)}}
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )


def plain():
    """Gradient descent, so that an update is −rate · gradient."""
    return optimizers.Optimizer(
        lambda params: {}, lambda g, s, p: (jax.tree.map(lambda g: -RATE * g, g), s), schedules.constant(RATE)
    )


def test_lower_layers_move_less(params):
    optimizer = finetuning.layerwise_decay_and_l2_sp(plain(), layer_decay=DECAY)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    np.testing.assert_allclose(updates['stack']['w'][:, 0, 0], -RATE * np.array([DECAY**3, DECAY**2, DECAY]), rtol=1e-6)
    np.testing.assert_allclose(updates['embed']['e'], -RATE * DECAY**4, rtol=1e-6)
    for name in ('final_norm', 'head'):
        np.testing.assert_allclose(jax.tree.leaves(updates[name])[0], -RATE, rtol=1e-6)
    top = {'stack': {'w': params['stack']['w'][1:]}, 'head': params['head']}  # only the last two layers are trained
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, top), optimizer.init(top), top)
    np.testing.assert_allclose(updates['stack']['w'][:, 0, 0], -RATE * np.array([DECAY**2, DECAY]), rtol=1e-6)


def test_the_pull_is_the_gradient_of_the_penalty(params):
    optimizer = finetuning.layerwise_decay_and_l2_sp(plain(), l2_sp=PULL)
    opt_state = optimizer.init(params)
    moved = jax.tree.map(lambda p: p + 1.0, params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    base = ('embed', 'stack', 'final_norm')

    def penalty(p):
        distances = jax.tree.map(
            lambda x, y: jnp.sum(jnp.square(x - y)), *({k: t[k] for k in base} for t in (p, params))
        )
        return PULL / 2 * sum(jax.tree.leaves(distances))

    expected = jax.grad(penalty)(moved)
    updates, _ = optimizer.update(zeros, opt_state, moved)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -RATE * g, rtol=1e-5), updates, expected)
    assert not np.any(updates['head']['k']) and np.any(updates['embed']['e'])


def test_by_default_nothing_changes_and_nothing_is_kept(params):
    inner = optimizers.adamw(schedules.constant(RATE))
    outer = finetuning.layerwise_decay_and_l2_sp(inner)
    grads = jax.tree.map(lambda p: p * 0.5, params)
    states = inner.init(params), outer.init(params)
    assert len(jax.tree.leaves(states[0])) == len(jax.tree.leaves(states[1]))
    updates = [o.update(grads, s, params)[0] for o, s in zip((inner, outer), states, strict=True)]
    jax.tree.map(np.testing.assert_array_equal, *updates)


@pytest.mark.parametrize('options', [{'layer_decay': 0.0}, {'layer_decay': 1.5}, {'l2_sp': -1.0}])
def test_what_makes_no_sense_is_refused(options):
    with pytest.raises(UserError, match=f'{next(iter(options))} is '):
        finetuning.layerwise_decay_and_l2_sp(plain(), **options)
