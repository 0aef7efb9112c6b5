"""The likeliest next tokens at given positions, with their log-probabilities."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.models.model import Model

_CHUNK = 256  # positions whose logits exist at the same time


def top_tokens(
    model: Model, params: Any, batch: Mapping[str, np.ndarray], count: int, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `count` likeliest tokens at every position that has a weight, row by row.

    Args:
      model: language model.
      params: parameters of `model`.
      batch: features [B, L], see `training.losses.LanguageModelLoss`.
      count: number k of tokens, at most the number of ids.
      temperature: T of softmax(logits / T).

    Returns:
      Ids, int32 [n, k], and log-probabilities, float32 [n, k], of the n positions.
    """
    rows, columns = np.nonzero(batch['decoder_loss_weights'])
    padding = -len(rows) % _CHUNK
    places = tuple(np.pad(x, (0, padding)).reshape(-1, _CHUNK) for x in (rows, columns))
    inputs = (
        batch['decoder_input_tokens'],
        batch.get('decoder_positions'),
        batch.get('decoder_segment_ids'),
        batch.get('decoder_causal_attention'),
    )
    found = _top_tokens(model, count, temperature, params, inputs, places)
    ids, log_p = (np.asarray(x).reshape(-1, count)[: len(rows)] for x in found)
    return ids.astype(np.int32), log_p


def top_tokens_of_rows(
    model: Model,
    params: Any,
    batches: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]],
    targets: np.ndarray,
    count: int,
    temperature: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same for rows that are read in any order.

    Args:
      model, params, count, temperature: see `top_tokens`.
      batches: numbers of rows, and a batch that begins with them; further rows have no weights.
      targets: number of positions with a weight in each row, int [E].
    """
    places = np.split(np.arange(targets.sum()), np.cumsum(targets)[:-1])
    ids, log_p = np.zeros((targets.sum(), count), np.int32), np.zeros((targets.sum(), count), np.float32)
    for rows, batch in batches:
        found = np.concatenate([places[row] for row in rows])
        ids[found], log_p[found] = top_tokens(model, params, batch, count, temperature)
    return ids, log_p


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _top_tokens(model, count, temperature, params, inputs, places):
    h_BLD = model.apply({'params': params}, *inputs, method='features')

    def of_chunk(place):
        logits_XV = model.apply({'params': params}, h_BLD[place], method=lambda m, h: m.embed.attend(h))
        log_p_XK, ids_XK = jax.lax.top_k(jax.nn.log_softmax(logits_XV.astype(jnp.float32) / temperature), count)
        return ids_XK, log_p_XK

    return jax.lax.map(of_chunk, places)
