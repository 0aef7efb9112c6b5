"""The log-likelihood of not generating given tokens, in chunks of the sequence."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from palm_jax.models.kernels.cross_entropy import ChunkLength, scan_chunks
from palm_jax.models.kernels.matmul import product
from palm_jax.models.saturation import LARGEST_FACTOR, limited, log_one_minus_p
from palm_jax.models.sharding import constrain


def unlikelihood(
    h_BLD: jax.Array,
    embedding_VD: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    candidates_BLK: jax.Array,
    always_V: jax.Array,
    scale: float,
    chunk_length: ChunkLength = 0,
    skip_unweighted: bool = False,
) -> jax.Array:
    """−Σ_c log(1 − p(c)) over the candidates of every position, without an array [B, L, V].

    A token that is a candidate several times counts once. The backward pass computes the logits of a chunk again.

    Args:
      h_BLD: features whose softmax over scale · h·Eᵀ is p.
      embedding_VD: output matrix E in the dtype of the features.
      targets_BL: ids that are left out of the candidates of their position unless `always_V` names them, int32.
      weights_BL: float32 weights of the positions.
      candidates_BLK: ids that are unlikely at a position, int32; V and above are none.
      always_V: ids that are unlikely everywhere, bool.
      scale, chunk_length, skip_unweighted: see `divergence.softmax_divergences`.

    Returns:
      The weighted sum over the positions in nats, float32 [].
    """

    @jax.checkpoint
    def of_chunk(h, targets, weights, candidates, embedding, scale, _):
        logits = scale * product(h, embedding, contract=1)
        logits = limited(constrain(logits, 'act_batch', 'act_length', 'act_vocab'), LARGEST_FACTOR)
        rows, columns = jnp.ogrid[: h.shape[0], : h.shape[1]]
        unlikely = jnp.zeros(logits.shape, bool)
        unlikely = unlikely.at[rows[..., None], columns[..., None], candidates].set(True, mode='drop')
        unlikely = unlikely.at[rows, columns, targets].set(False, mode='drop') | always_V
        return (-jnp.sum(weights[..., None] * jnp.where(unlikely, log_one_minus_p(logits), 0.0)),), None

    xs = (h_BLD, targets_BL, weights_BL, candidates_BLK)
    (total,), _ = scan_chunks(of_chunk, xs, embedding_VD, scale, 0.0, chunk_length, skip_unweighted)
    return total
