"""PaLM's Adafactor, AdamW and Muon, each with its schedule.

Parameters under `stack/` have a leading layers axis. Statistics of a whole parameter (its root mean
square, its orthogonal factor) are computed per layer, so that stacking does not change them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from palm_jax.bounds import Above, AtLeast, Pattern, Rate, Weight, checked
from palm_jax.parameters import path_mask, path_name

MATRICES = r'.*(?<!scale)(?<!bias)'  # everything but the norms' scales and biases


NotNegative = Annotated[float, AtLeast(0)]


class Optimizer(NamedTuple):
    """An `optax.GradientTransformation` with its learning rate schedule."""

    init: optax.TransformInitFn
    update: optax.TransformUpdateFn
    schedule: optax.Schedule


@checked
def adafactor(
    schedule: optax.Schedule,
    beta1: Rate = 0.9,
    decay_exponent: NotNegative = 0.8,
    clip_norm: Annotated[float, Above(0)] | None = 1.0,
    weight_decay_exponent: Weight | None = 2.0,
    minimum_scale: NotNegative = 1e-3,
    epsilon: NotNegative = 1e-30,
    weight_decay_pattern: Pattern = '.*',
) -> Optimizer:
    """PaLM's Adafactor: not factorized, with parameter scaling (paper, section 5).

    With g the clipped gradient, α the learning rate and k = 1, 2, ... the step:

        v ← β₂ v + (1 − β₂)(g² + ε),  β₂ = 1 − k^(−0.8)
        u = α · max(minimum_scale, RMS(p)) · g / √v
        m ← β₁ m + (1 − β₁) u
        p ← p − m − α² p

    Args:
      schedule: learning rate α by step, counted from 0.
      beta1: decay β₁ of the momentum.
      decay_exponent: exponent of the step in β₂, 0.8 in the paper.
      clip_norm: global norm to which gradients are clipped; None: no clipping.
      weight_decay_exponent: exponent of α in the weight decay, which is independent of the gradient;
        None: no weight decay.
      minimum_scale: lower bound of a parameter's RMS, so that zeros can leave zero (ε₂ of
        Shazeer and Stern, arXiv 1804.04235).
      epsilon: constant added to squared gradients (ε₁ of the same paper).
      weight_decay_pattern: regular expression of the paths that decay.
    """

    def second_moment_decay(count):
        return 1.0 - (count + 1.0) ** -decay_exponent

    def init(params):
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        return {'count': jnp.zeros([], jnp.int32), 'm': zeros, 'v': jax.tree.map(jnp.copy, zeros)}

    def update(grads, state, params):
        count = state['count']
        alpha, beta2 = schedule(count), second_moment_decay(count)
        grads = _as_float32(grads)
        v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * (jnp.square(g) + epsilon), state['v'], grads)
        scale = jax.tree_util.tree_map_with_path(lambda path, p: jnp.maximum(minimum_scale, _rms(path, p)), params)
        m = jax.tree.map(
            lambda m, g, v, s: beta1 * m + (1 - beta1) * alpha * s * g * jax.lax.rsqrt(v), state['m'], grads, v, scale
        )
        updates = jax.tree.map(lambda m, p: (-m).astype(p.dtype), m, params)
        return updates, {'count': count + 1, 'm': m, 'v': v}

    transforms = [optax.GradientTransformation(init, update)]
    if weight_decay_exponent is not None:
        transforms.append(_decay_weights(lambda count: schedule(count) ** weight_decay_exponent, weight_decay_pattern))
    return _optimizer(schedule, clip_norm, *transforms)


@checked
def adamw(
    schedule: optax.Schedule,
    beta1: Rate = 0.9,
    beta2: Rate = 0.95,
    epsilon: NotNegative = 1e-8,
    clip_norm: Annotated[float, Above(0)] | None = 1.0,
    weight_decay: NotNegative = 0.1,
    weight_decay_pattern: Pattern = MATRICES,
) -> Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101): p ← p − α·m̂/(√v̂ + ε) − α·weight_decay·p.

    Args:
      schedule: learning rate α by step, counted from 0.
      beta1: decay of the moving average m of the gradient.
      beta2: decay of the moving average v of its square.
      epsilon: constant ε added to √v̂.
      clip_norm: global norm to which gradients are clipped; None: no clipping.
      weight_decay: decoupled weight decay, multiplied by the learning rate.
      weight_decay_pattern: regular expression of the paths that decay.
    """
    return _optimizer(
        schedule,
        clip_norm,
        optax.adamw(
            schedule,
            b1=beta1,
            b2=beta2,
            eps=epsilon,
            weight_decay=weight_decay,
            mask=lambda params: _matching(weight_decay_pattern, params),
        ),
    )


@checked
def muon(
    schedule: optax.Schedule,
    momentum: Rate = 0.95,
    clip_norm: Annotated[float, Above(0)] | None = 1.0,
    weight_decay: NotNegative = 0.1,
    adam_ratio: NotNegative = 1.0,
    adam_beta1: Rate = 0.9,
    adam_beta2: Rate = 0.95,
    rms: NotNegative = 0.2,
    weight_decay_pattern: Pattern = MATRICES,
) -> Optimizer:
    """optax's Muon (Jordan 2024) for the blocks' matrices, Adam for the embedding and the norms.

    Args:
      schedule: learning rate of Muon by step, counted from 0.
      momentum: decay of Muon's momentum.
      clip_norm: global norm to which gradients are clipped; None: no clipping.
      weight_decay: decoupled weight decay, multiplied by the learning rate.
      adam_ratio: ratio of Adam's learning rate to Muon's.
      adam_beta1: decay of Adam's moving average of the gradient.
      adam_beta2: decay of Adam's moving average of its square.
      rms: root mean square of Muon's updates; 0.2 suits learning rates of Adam (Moonlight, arXiv 2502.16982).
      weight_decay_pattern: regular expression of the paths that decay.
    """

    def dimension_numbers(params):
        return jax.tree_util.tree_map_with_path(_muon_axes, params)

    return _optimizer(
        schedule,
        clip_norm,
        optax.contrib.muon(
            schedule,
            beta=momentum,
            weight_decay=weight_decay,
            weight_decay_mask=lambda params: _matching(weight_decay_pattern, params),
            adam_b1=adam_beta1,
            adam_b2=adam_beta2,
            adam_weight_decay=0.0,
            adam_learning_rate=lambda count: adam_ratio * schedule(count),
            muon_weight_dimension_numbers=dimension_numbers,
            consistent_rms=rms,
        ),
    )


def _muon_axes(path, p):
    name = path_name(path)
    if not name.startswith('stack/') or 'qkv_bias' in name or p.ndim < 3:
        return None
    # All kernels but attn/out/kernel [N, H, K, D] contract one axis: the first after layers.
    reduction = tuple(range(1, p.ndim - 1)) if name.endswith('out/kernel') else (1,)
    output = tuple(axis for axis in range(1, p.ndim) if axis not in reduction)
    return optax.contrib.MuonDimensionNumbers(reduction_axis=reduction, output_axis=output)


def _rms(path, p):
    """Return the root mean square of a parameter, per layer where layers are stacked; it broadcasts against p."""
    stacked = path_name(path).startswith('stack/')
    axes = tuple(range(1 if stacked else 0, p.ndim))
    return jnp.sqrt(jnp.mean(jnp.square(p.astype(jnp.float32)), axis=axes, keepdims=True))


def _decay_weights(rate: optax.Schedule, pattern: str) -> optax.GradientTransformation:
    """Return the transformation p ← p − rate(k)·p, for the end of a chain."""

    def init(params):
        _matching(pattern, params)
        return {'count': jnp.zeros([], jnp.int32)}

    def update(updates, state, params):
        r = rate(state['count'])
        updates = jax.tree.map(
            lambda u, p, decays: u - (r * p).astype(u.dtype) if decays else u,
            updates,
            params,
            _matching(pattern, params),
        )
        return updates, {'count': state['count'] + 1}

    return optax.GradientTransformation(init, update)


def _matching(pattern: str, params: Any) -> Any:
    """Return a tree of bools: does a parameter decay? The default may match nothing, e.g. if only norms are trained."""
    if pattern == MATRICES:
        return jax.tree_util.tree_map_with_path(lambda path, _: bool(re.fullmatch(pattern, path_name(path))), params)
    return path_mask([pattern], params, 'weight_decay_pattern')


def _as_float32(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def _optimizer(schedule, clip_norm, *transforms) -> Optimizer:
    clip = () if clip_norm is None else (optax.clip_by_global_norm(clip_norm),)
    chain = optax.chain(*clip, *transforms)
    return Optimizer(chain.init, chain.update, schedule)
