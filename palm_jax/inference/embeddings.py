"""Embeddings of texts: pooled features of a model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.inference.generate import batches
from palm_jax.models.heads import pool
from palm_jax.models.model import Model

Pooling = Literal['last', 'first', 'mean']


def embeddings(
    model: Model,
    params: Any,
    ids: Sequence[Sequence[int]],
    length: int,
    pooling: Pooling = 'mean',
    bidirectional: bool = False,
    batch_size: int = 32,
) -> np.ndarray:
    """Return the pooled features of the last block, normalized to length 1, of each of E texts: float32 [E, D].

    Args:
      model: model, with its fine-tuning methods.
      params: parameters of `model`.
      ids: at most `length` token ids of each text, BOS included.
      length: context length in tokens.
      pooling: see `models.heads.Head`.
      bidirectional: whether tokens attend to one another in both directions.
      batch_size: number of texts per forward pass.
    """
    results = np.zeros((len(ids), model.arch.d_model), np.float32)
    for rows, tokens, lengths in batches(ids, batch_size, length, 'embedding') if ids else ():
        found = np.asarray(_embed(model, pooling, bidirectional, params, tokens, lengths))
        results[rows] = found[: len(rows)]
    return results


def embed_features(
    model: Model, params: Any, tokens_BL: jax.Array, segment_ids_BL: jax.Array, pooling: Pooling, bidirectional: bool
) -> jax.Array:
    """Return the normalized embeddings of rows of one text each, float32 [B, D].

    Args:
      model, params, pooling, bidirectional: see `embeddings`.
      tokens_BL: int32 token ids.
      segment_ids_BL: int32, 1 for tokens and 0 for padding.
    """
    causal_attention = segment_ids_BL if bidirectional else None
    h_BLD = model.apply({'params': params}, tokens_BL, None, segment_ids_BL, causal_attention, method='features')
    pooled_BD = pool(h_BLD.astype(jnp.float32), segment_ids_BL, pooling)
    return pooled_BD / jnp.maximum(jnp.linalg.norm(pooled_BD, axis=-1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _embed(model, pooling, bidirectional, params, tokens_BL, lengths_B):
    segment_ids_BL = (jnp.arange(tokens_BL.shape[1]) < lengths_B[:, None]).astype(jnp.int32)
    return embed_features(model, params, tokens_BL, segment_ids_BL, pooling, bidirectional)
