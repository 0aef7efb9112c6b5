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
