"""Baselines of compression: gzip and a byte n-gram model."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Convert the total cross-entropy of a text (in nats, end marks included) to bits per UTF-8 byte."""
    return nats / math.log(2) / num_bytes


def gzip_bits_per_byte(documents: Sequence[bytes]) -> float:
    """Return bits per byte of `gzip -9` for all documents in one file, its best case."""
    text = b''.join(documents)
    return 8 * len(gzip.compress(text, compresslevel=9, mtime=0)) / len(text)


def ngram_bits_per_byte(train: bytes, documents: Sequence[bytes], order: int = 3) -> float:
    """Return bits per byte of a byte n-gram with `order` bytes of context, trained on `train`.

    It is interpolated with all shorter contexts (Witten and Bell, 1991): a context seen n times with t distinct next
    bytes gives them n / (n + t) of the probability, and the rest to the shorter context; after the empty context, the
    rest is uniform over bytes.

    Args:
      train: training text.
      documents: held-out texts; contexts do not cross their boundaries.
      order: number of bytes of context, at most 7.
    """
    log2_p, count = 0.0, 0
    tables = [_counts(train, k) for k in range(order + 1)]
    for document in documents:
        p = np.full(len(document), 1 / 256)
        for k, table in enumerate(tables):
            p[k:] = _interpolate(document, k, p[k:], table)
        log2_p += np.log2(p).sum()
        count += len(document)
    return float(-log2_p / count)


def _codes(text: bytes, length: int) -> np.ndarray:
    """Return every substring of `length` bytes as an integer, [len(text) - length + 1]."""
    data = np.frombuffer(text, np.uint8).astype(np.uint64)
    codes = np.zeros(max(0, len(data) - length + 1), np.uint64)
    for i in range(length):
        codes = (codes << np.uint64(8)) | data[i : i + len(codes)]
    return codes


Table: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _counts(train: bytes, k: int) -> Table:
    """Return sorted (k+1)-grams with their counts, and sorted contexts with n and t."""
    grams, gram_counts = np.unique(_codes(train, k + 1), return_counts=True)
    contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
    n = np.add.reduceat(gram_counts, first)
    t = np.diff(np.append(first, len(grams)))
    return grams, gram_counts, contexts, n, t


def _interpolate(document: bytes, k: int, shorter: np.ndarray, table: Table) -> np.ndarray:
    grams, gram_counts, contexts, n, t = table
    codes = _codes(document, k + 1)
    seen = _look_up(codes, grams, gram_counts)
    context = codes >> np.uint64(8)
    n, t = _look_up(context, contexts, n), _look_up(context, contexts, t)
    total = np.maximum(n + t, 1)
    return np.where(n > 0, (seen + t * shorter) / total, shorter)


def _look_up(keys: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not len(known):
        return np.zeros(len(keys), values.dtype)
    index = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[index] == keys, values[index], 0)
