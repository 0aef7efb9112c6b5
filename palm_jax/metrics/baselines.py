"""What a model must beat to have learnt anything: a compressor and counting."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence

import numpy as np


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Convert the total cross-entropy of a text (in nats, end marks included) to bits per UTF-8 byte."""
    return nats / math.log(2) / num_bytes


def gzip_bits_per_byte(documents: Sequence[bytes]) -> float:
    """Bits per byte of `gzip -9` over all documents as one file, its best case."""
    text = b''.join(documents)
    return 8 * len(gzip.compress(text, compresslevel=9, mtime=0)) / len(text)


def ngram_bits_per_byte(train: bytes, documents: Sequence[bytes], order: int = 3) -> float:
    """Bits per byte of a byte n-gram with `order` bytes of context, trained on `train`.

    Interpolated with all shorter contexts after Witten and Bell (1991): a context seen n
    times with t different completions gives them n / (n + t) of the probability and leaves
    the rest to the shorter context; below the empty context all bytes are equally likely.

    Args:
      train: the text that is counted.
      documents: held-out texts; contexts do not cross them.
      order: at most 7 bytes of context.
    """
    log2_p, count = 0.0, 0
    tables = [_counts(train, k) for k in range(order + 1)]
    for document in documents:
        p = np.full(len(document), 1 / 256)
        for k, table in enumerate(tables):
            p[k:] = _interpolate(document, k, p[k:], *table)
        log2_p += np.log2(p).sum()
        count += len(document)
    return float(-log2_p / count)


def _codes(text: bytes, length: int) -> np.ndarray:
    """Every substring of `length` bytes as one integer; [len(text) - length + 1]."""
    data = np.frombuffer(text, np.uint8).astype(np.uint64)
    codes = np.zeros(max(0, len(data) - length + 1), np.uint64)
    for i in range(length):
        codes = (codes << np.uint64(8)) | data[i : i + len(codes)]
    return codes


def _counts(train: bytes, k: int):
    """Sorted (k+1)-grams with their counts, and sorted contexts with n and t."""
    grams, gram_counts = np.unique(_codes(train, k + 1), return_counts=True)
    contexts, first = np.unique(grams >> np.uint64(8), return_index=True)
    n = np.add.reduceat(gram_counts, first)
    t = np.diff(np.append(first, len(grams)))
    return grams, gram_counts, contexts, n, t


def _interpolate(document, k, shorter, grams, gram_counts, contexts, n, t):
    codes = _codes(document, k + 1)
    seen = _look_up(codes, grams, gram_counts)
    context = codes >> np.uint64(8)
    n, t = _look_up(context, contexts, n), _look_up(context, contexts, t)
    total = np.maximum(n + t, 1)
    return np.where(n > 0, (seen + t * shorter) / total, shorter)


def _look_up(keys, known, values):
    if not len(known):
        return np.zeros(len(keys), values.dtype)
    index = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[index] == keys, values[index], 0)
