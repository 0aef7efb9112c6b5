"""Embeddings of texts by a trained model of any kind."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from palm_jax.characters import check_characters
from palm_jax.errors import UserError
from palm_jax.inference import embeddings
from palm_jax.inference.embeddings import Pooling
from palm_jax.special_ids import BOS_ID, EOS_ID

_LOGGER = logging.getLogger(__name__)


def embedding_ids(model: Any, given: str | Sequence[int]) -> tuple[list[int], bool]:
    """Return the ids of a text, `0 text EOS`, and whether its end was cut.

    Args:
      model: trained model, see `trained_model.TrainedModel`.
      given: text, or its token ids without BOS and EOS.

    Raises:
      UserError: an id is not in the vocabulary, or a character cannot be represented.
    """
    vocabulary, room = model.data.vocabulary, model.data.length - 2
    if isinstance(given, str):
        ids = vocabulary.encode(check_characters(given, 'the text'))
    else:
        ids = list(given)
        if unknown := [i for i in ids if not 0 <= i < vocabulary.size]:
            raise UserError(f'Token {unknown[0]} is unknown: the vocabulary has {vocabulary.size}.')
    return [BOS_ID, *ids[:room], EOS_ID], len(ids) > room


def embed(model: Any, texts: Sequence[str], pooling: Pooling | None, batch_size: int) -> np.ndarray:
    """Return the embedding of each text; see `trained_model.TrainedModel.embed`."""
    encoded = [embedding_ids(model, text) for text in texts]
    if num_cut := sum(was_cut for _, was_cut in encoded):
        _LOGGER.warning(f'{num_cut:,} of {len(encoded):,} texts are longer than {model.data.length} tokens and are cut')
    return embed_ids(model, [ids for ids, _ in encoded], pooling, batch_size)


def embed_ids(
    model: Any, ids: Sequence[Sequence[int]], pooling: Pooling | None = None, batch_size: int = 32
) -> np.ndarray:
    """Return the embeddings of encoded texts, see `embedding_ids`: float32 [E, D]."""
    is_bidirectional = getattr(model.data, 'bidirectional', False)
    pooling = pooling or pooling_of(model)
    return embeddings.embeddings(
        model.model, model.params, ids, model.data.length, pooling, is_bidirectional, batch_size
    )


def pooling_of(model: Any) -> Pooling:
    """Return how a model was trained to pool: as its kind of task or its head says, else the mean."""
    pooling: Any = getattr(model.predictor, 'pooling', None) or getattr(model.model.head, 'pooling', 'mean')
    return 'mean' if pooling == 'none' else pooling
