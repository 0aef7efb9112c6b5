"""Scores of a model's head for any number of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from palm_jax.training.head_losses import scores_of

FEATURES = ('decoder_input_tokens', 'decoder_segment_ids')


def head_scores(
    model: Any, params: Any, features: Mapping[str, np.ndarray], count: int, batch_size: int
) -> list[np.ndarray]:
    """Return the scores of each of `count` inputs, float32 [C] or [L, C].

    Args:
      model: module with a head.
      params: its parameters.
      features: arrays [count, L] by name.
      count: number of inputs.
      batch_size: inputs per forward pass; the last batch is filled up with its last input.
    """
    results: list[np.ndarray] = []
    for first in range(0, count, batch_size):
        rows = np.minimum(np.arange(first, first + batch_size), count - 1)
        batch = {name: values[rows] for name, values in features.items()}
        results.extend(np.asarray(_scores_of(model, params, batch))[: count - first])
    return results


def apply_head(
    model: Any,
    params: Any,
    tokens_BL: jax.Array,
    segment_ids_BL: jax.Array,
    causal_attention_BL: jax.Array | None = None,
) -> jax.Array:
    """Return the head's scores of the arrays named by `FEATURES`, float32 [B, C] or [B, L, C].

    Args:
      model: module with a head.
      params: its parameters.
      tokens_BL: int32 token ids.
      segment_ids_BL: int32, 1 for tokens and 0 for padding.
      causal_attention_BL: int32, 1 where attention is bidirectional; None is causal everywhere.
    """
    return model.apply({'params': params}, tokens_BL, None, segment_ids_BL, causal_attention_BL, method='scores')


_scores_of = jax.jit(scores_of, static_argnums=0)
