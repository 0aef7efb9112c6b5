"""Scores of a model's head for any number of inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from palm_jax.inference.generate import next_power_of_two
from palm_jax.training.head_losses import scores_of

FEATURES = ('decoder_input_tokens', 'decoder_segment_ids')
_LEAST_WIDTH = 16  # tokens


def head_scores(
    model: Any, params: Any, features: Mapping[str, np.ndarray], count: int, batch_size: int
) -> list[np.ndarray]:
    """Return the scores of each of `count` inputs, float32 [C] or [L, C], 0 on padding that is not read.

    Args:
      model: module with a head.
      params: its parameters.
      features: arrays [count, L] by name.
      count: number of inputs.
      batch_size: inputs per forward pass, at most; see `by_length`.
    """
    length = features['decoder_segment_ids'].shape[1]
    results: list[np.ndarray] = [np.zeros(0)] * count
    for numbers, batch in by_length({name: values[:count] for name, values in features.items()}, batch_size):
        scores = np.asarray(scores_of_batch(model, params, batch))
        if scores.ndim == 3:
            scores = np.pad(scores, ((0, 0), (0, length - scores.shape[1]), (0, 0)))
        for number, of_input in zip(numbers, scores, strict=False):
            results[number] = of_input
    return results


def by_length(
    features: Mapping[str, np.ndarray], batch_size: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield inputs in batches of similar length, cut to the longest of them.

    Args:
      features: arrays [E, L] by name, `decoder_segment_ids` among them.
      batch_size: inputs per batch, at most; the last batch is filled up with its last input.

    Yields:
      The numbers of the inputs [at most batch_size]; their features. Both axes are powers of two, the batch size or L,
      so that few shapes are compiled.
    """
    is_used = features['decoder_segment_ids'] > 0
    count, length = is_used.shape
    ends = np.where(is_used.any(axis=1), length - is_used[:, ::-1].argmax(axis=1), 1)
    order, size = ends.argsort(kind='stable'), min(batch_size, next_power_of_two(max(count, 1)))
    for first in range(0, count, size):
        numbers = order[first : first + size]
        rows = np.pad(numbers, (0, size - len(numbers)), mode='edge')
        width = min(next_power_of_two(int(ends[numbers[-1]]), _LEAST_WIDTH), length)
        yield numbers, {name: values[rows, :width] for name, values in features.items()}


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


scores_of_batch = jax.jit(scores_of, static_argnums=0)
