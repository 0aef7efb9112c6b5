"""Documents as token ids, many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from palm_jax.data.vocabulary.vocabulary import Vocabulary
from palm_jax.special_ids import EOS_ID

_CHARACTERS = 1 << 20  # encoded together, on all cores


def encode_documents(vocabulary: Vocabulary, texts: Iterable[str]) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (token ids with EOS, number of UTF-8 bytes) of every text, in order."""
    for batch in _batches(texts):
        for ids, text in zip(vocabulary.encode_all(batch), batch, strict=True):
            yield np.array([*ids, EOS_ID], np.int32), len(text.encode())


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield lists of texts with at least `_CHARACTERS` characters."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
