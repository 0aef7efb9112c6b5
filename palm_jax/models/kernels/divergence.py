"""Kullback-Leibler divergence between two predictions of tokens, in chunks of the sequence."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from palm_jax.models.kernels.cross_entropy import ChunkLength, scan_chunks
from palm_jax.models.kernels.matmul import product
from palm_jax.models.sharding import constrain


def softmax_divergences(
    p_BLD: jax.Array,
    q_BLD: jax.Array,
    embedding_VD: jax.Array,
    weights_BL: jax.Array,
    scale: float,
    chunk_length: ChunkLength = 0,
    skip_unweighted: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """KL(p ‖ q) and KL(q ‖ p) of the softmax distributions of two features, without an array [B, L, V].

    The backward pass computes the logits of a chunk again.

    Args:
      p_BLD: features whose logits, scale · h·Eᵀ, give p.
      q_BLD: features that give q.
      embedding_VD: output matrix E in the dtype of the features.
      weights_BL: float32 weights of the positions.
      scale: factor of the logits.
      chunk_length: positions in a chunk; 0 or ≥ L is one chunk.
      skip_unweighted: move the weighted positions of every row to its front and skip chunks without any.

    Returns:
      Both divergences in nats, weighted sums over the positions, float32 scalars.
    """

    @jax.checkpoint
    def of_chunk(p, q, weights, embedding, scale, _):
        log_p, log_q = (_log_softmax(h, embedding, scale) for h in (p, q))
        return tuple(jnp.sum(weights * kl) for kl in divergences(log_p, log_q)), None

    xs = (p_BLD, q_BLD, weights_BL)
    sums, _ = scan_chunks(of_chunk, xs, embedding_VD, scale, 0.0, chunk_length, skip_unweighted)
    return sums


def divergences(log_p: jax.Array, log_q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """KL(p ‖ q) and KL(q ‖ p) over the last axis of log-probabilities [..., V]: arrays [...] in nats."""
    p, q, difference = jnp.exp(log_p), jnp.exp(log_q), log_p - log_q
    return jnp.sum(p * difference, axis=-1), -jnp.sum(q * difference, axis=-1)


def _log_softmax(h, embedding, scale):
    logits = scale * product(h, embedding, contract=1)
    return jax.nn.log_softmax(constrain(logits, 'act_batch', 'act_length', 'act_vocab'), axis=-1)
