"""Scores so large that a loss of them would overflow float32: their values are limited, their gradients are not."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

_LARGEST = 1e30  # the sum of a hundred million of them is finite
LARGEST_FACTOR = 1e17  # of what is squared, or is a factor of a gradient
_LOWEST_TEMPERATURE = 1e-20  # below it, a softmax is one-hot and its gradient overflows


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def limited(scores: jax.Array, largest: float = _LARGEST) -> jax.Array:
    """Return scores within ±`largest`, with the gradient of the scores themselves; NaN stays NaN.

    Differences, exponentials and sums of the result are finite, and so is the gradient of a loss: a prediction that is
    wrong beyond the limit is corrected as one at the limit is.
    """
    return jnp.clip(scores, -largest, largest)


@limited.defjvp
def _limited_jvp(largest, primals, tangents):
    return limited(*primals, largest), tangents[0]


def square(x: jax.Array) -> jax.Array:
    """Return x²; beyond ±1e17, it and its gradient are those of ±1e17."""
    return jnp.square(limited(x, LARGEST_FACTOR))


def tempered(scores: jax.Array, temperature: float) -> jax.Array:
    """Return scores / T within the limits, for any T above 0."""
    return limited(scores / max(temperature, _LOWEST_TEMPERATURE))


def log_one_minus_p(scores: jax.Array) -> jax.Array:
    """Return log(1 − softmax(scores)) over the last axis, finite with finite gradients where a probability rounds to 1.

    At the largest score it is the log of the other probabilities' sum. With a single class, where that sum is empty,
    it is 0, and so is the loss.
    """
    if scores.shape[-1] == 1:
        return jnp.zeros_like(scores)
    is_largest = jax.nn.one_hot(scores.argmax(axis=-1), scores.shape[-1], dtype=bool)
    of_others = jax.nn.logsumexp(jnp.where(is_largest, -jnp.inf, scores), axis=-1, keepdims=True)
    p_of_others = jnp.where(is_largest, 0.0, jax.nn.softmax(scores, axis=-1))  # at most a half
    return jnp.where(is_largest, of_others - jax.nn.logsumexp(scores, axis=-1, keepdims=True), jnp.log1p(-p_of_others))
