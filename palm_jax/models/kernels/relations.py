"""Relations between the tokens of a text: distributions over the tokens that each of them attends to."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from palm_jax.models.kernels.divergence import divergences
from palm_jax.models.saturation import LARGEST_FACTOR, limited

_MINUS_INFINITY = -1e30  # of a relation to a token that is left out, with finite gradients


def relation(x_BLRK: jax.Array, y_BMRK: jax.Array, allowed_BLM: jax.Array) -> jax.Array:
    """log softmax(x·yᵀ / √K) of every relation head: float32 [B, R, L, M].

    Args:
      x_BLRK: one side of each head.
      y_BMRK: the other side.
      allowed_BLM: boolean, the tokens m to which token l is related.
    """
    scores = jnp.einsum('BLRK,BMRK->BRLM', x_BLRK, y_BMRK, preferred_element_type=jnp.float32)
    scores = limited(scores, LARGEST_FACTOR) * x_BLRK.shape[-1] ** -0.5
    return jax.nn.log_softmax(jnp.where(allowed_BLM[:, None], scores, _MINUS_INFINITY), axis=-1)


def relation_divergence(log_p_BRLM: jax.Array, log_q_BRLM: jax.Array) -> jax.Array:
    """KL(p ‖ q) of each token's relations, a mean over the heads: float32 [B, L]."""
    return divergences(log_p_BRLM, log_q_BRLM)[0].mean(axis=1)


def regrouped(x_BLGK: jax.Array, num_heads: int) -> jax.Array:
    """Cut the numbers of each token's heads, side by side, into another number of heads: [B, L, R, G·K / R]."""
    return x_BLGK.reshape(*x_BLGK.shape[:2], num_heads, -1)
