"""Kullback-Leibler divergence between two predictions of tokens, in chunks of the sequence."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from palm_jax.models.kernels.cross_entropy import ChunkLength, scan_chunks
from palm_jax.models.kernels.matmul import product
from palm_jax.models.saturation import LARGEST_FACTOR, limited
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


def top_k_divergence(
    h_BLD: jax.Array,
    embedding_VD: jax.Array,
    ids_BLK: jax.Array,
    log_p_BLK: jax.Array,
    weights_BL: jax.Array,
    scale: float,
    chunk_length: int = 0,
    skip_unweighted: bool = False,
) -> jax.Array:
    """KL(p ‖ q) of a p that is known at k ids, with the rest of the probability as one more outcome.

    Args:
      h_BLD: features whose softmax over scale · h·Eᵀ is q.
      embedding_VD: output matrix E in the dtype of the features.
      ids_BLK: int32, the ids.
      log_p_BLK: float32, their log-probabilities under p.
      weights_BL: float32 weights of the positions.
      scale, chunk_length, skip_unweighted: see `softmax_divergences`.

    Returns:
      The weighted sum over the positions in nats, float32 [].
    """

    @jax.checkpoint
    def of_chunk(h, ids, weights, log_p, embedding, scale, _):
        log_p = limited(log_p, LARGEST_FACTOR)
        log_q = jnp.take_along_axis(_log_softmax(h, embedding, scale), ids, axis=-1)
        p, rest_p, rest_q = jnp.exp(log_p), _rest(log_p), _rest(log_q)
        kl = jnp.sum(p * (log_p - log_q), axis=-1) + rest_p * (jnp.log(rest_p) - jnp.log(rest_q))
        return (jnp.sum(weights * kl),), None

    xs = (h_BLD, ids_BLK, weights_BL, log_p_BLK)
    (total,), _ = scan_chunks(of_chunk, xs, embedding_VD, scale, 0.0, chunk_length, skip_unweighted)
    return total


def generalized_jsd(
    p_BLD: jax.Array,
    p_embedding_VD: jax.Array,
    q_BLE: jax.Array,
    q_embedding_VE: jax.Array,
    weights_BL: jax.Array,
    beta: float,
    scales: tuple[float, float],
    chunk_length: int = 0,
) -> jax.Array:
    """β·KL(p ‖ m) + (1 − β)·KL(q ‖ m), m = β·p + (1 − β)·q, of tokens predicted by two models.

    At its ends, where that is 0, it is KL(p ‖ q) for β = 0 and KL(q ‖ p) for β = 1 (arXiv 2306.13649, as in TRL). Ids
    that only one of the matrices has are left out: they are beyond the vocabulary that both share.

    Args:
      p_BLD, q_BLE: features, whose logits are scale · h·Eᵀ.
      p_embedding_VD, q_embedding_VE: output matrices E, in the dtype of their features.
      weights_BL: float32 weights of the positions; chunks without any are skipped.
      beta: β.
      scales: factors of the logits of p and of q.
      chunk_length: positions in a chunk; 0 or ≥ L is one chunk.

    Returns:
      The weighted sum over the positions in nats, float32 [].
    """
    num_ids = min(len(p_embedding_VD), len(q_embedding_VE))

    @jax.checkpoint
    def of_chunk(p, q, weights, embeddings, scales, _):
        log_p, log_q = (_log_softmax(h, e, s) for h, e, s in zip((p, q), embeddings, scales, strict=True))
        if beta in (0, 1):
            return (jnp.sum(weights * divergences(log_p, log_q)[int(beta)]),), None
        log_m = jnp.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
        to_m = (jnp.sum(jnp.exp(log_x) * (log_x - log_m), axis=-1) for log_x in (log_p, log_q))
        return (jnp.sum(weights * sum(share * kl for share, kl in zip((beta, 1 - beta), to_m, strict=True))),), None

    embeddings = p_embedding_VD[:num_ids], q_embedding_VE[:num_ids]
    (total,), _ = scan_chunks(of_chunk, (p_BLD, q_BLE, weights_BL), embeddings, scales, 0.0, chunk_length, True)
    return total


def _rest(log_p: jax.Array) -> jax.Array:
    """What probabilities leave of 1, at least a millionth."""
    return jnp.maximum(1 - jnp.exp(log_p).sum(axis=-1), 1e-6)


def divergences(log_p: jax.Array, log_q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """KL(p ‖ q) and KL(q ‖ p) over the last axis of log-probabilities [..., V]: arrays [...] in nats."""
    p, q, difference = jnp.exp(log_p), jnp.exp(log_q), log_p - log_q
    return jnp.sum(p * difference, axis=-1), -jnp.sum(q * difference, axis=-1)


def _log_softmax(h, embedding, scale):
    logits = scale * product(h, embedding, contract=1)
    logits = constrain(logits, 'act_batch', 'act_length', 'act_vocab')
    return jax.nn.log_softmax(limited(logits, LARGEST_FACTOR), axis=-1)
