"""An optimizer of your own: Lion (Chen et al., arXiv 2302.06675), the sign of an interpolated momentum.

Shows: an optimizer is a function that returns an `Optimizer`, a named tuple of optax's `init` and `update` and of the
learning-rate schedule, which the loop logs. Run it from the root of the repository:

    python -m palm_jax.train --gin_file=examples/my_optimizer/my_optimizer.gin

Parameters below `stack/` carry a leading layers axis. Lion works elementwise and need not care; an optimizer that
computes something over a whole matrix (a norm, an orthogonal factor) computes it for each layer, see
`palm_jax/training/optimizers.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from palm_jax.training.optimizers import Optimizer


def lion(schedule: optax.Schedule, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0) -> Optimizer:
    """Lion: with gradient g, learning rate α and momentum m (zero at the start),

        u ← sign(β₁ m + (1 − β₁) g)
        m ← β₂ m + (1 − β₂) g
        p ← p − α (u + weight_decay · p)

    Args:
      schedule: learning rate α as a function of the step, counted from 0.
      beta1: interpolation β₁ of the update.
      beta2: decay β₂ of the momentum.
      weight_decay: decoupled weight decay, multiplied by the learning rate; it applies to all parameters.
    """

    def init(params):
        return {'count': jnp.zeros([], jnp.int32), 'm': jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)}

    def update(grads, state, params):
        alpha = schedule(state['count'])

        def step(g, m, p):
            u = jnp.sign(beta1 * m + (1 - beta1) * g)
            return (-alpha * (u + weight_decay * p)).astype(p.dtype)

        updates = jax.tree.map(step, grads, state['m'], params)
        m = jax.tree.map(lambda g, m: beta2 * m + (1 - beta2) * g.astype(jnp.float32), grads, state['m'])
        return updates, {'count': state['count'] + 1, 'm': m}

    return Optimizer(init, update, schedule)
