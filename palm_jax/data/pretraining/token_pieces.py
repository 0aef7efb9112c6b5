"""Token caches that many processes make: each encodes pieces of the text, and one of them writes the files.

Encoding takes most of the time, and it is what the processes divide; each of them reads the whole text, which divides
into the same pieces everywhere. The files come out as those of one process, byte for byte.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from palm_jax import locks, pieces
from palm_jax.data.pretraining import token_cache
from palm_jax.data.vocabulary.documents import encode_documents
from palm_jax.data.vocabulary.vocabulary import Vocabulary

CHARACTERS = 1 << 22  # of a piece, at least, unless it is the last one
_EQUAL, _MOST_DOUBLINGS = 256, 4  # of a large text later pieces are larger, so that there are not too many files


def build(texts: Callable[[], Iterable[str]], vocabulary: Vocabulary, directory: Path, size: int, label: str) -> None:
    """Build a token cache together with all other processes that do, or wait until they have; see `token_cache.build`.

    Args:
      texts: returns the documents, always the same.
      vocabulary: vocabulary that encodes them.
      directory: folder of the cache.
      size: upper bound of the ids (exclusive).
      label: name for the progress bar and messages.
    """
    folder = pieces.folder_of(directory)
    is_done = functools.partial(token_cache.exists, directory)
    count = pieces.make_all(folder, lambda: _pieces(texts(), vocabulary), is_done, label)
    with locks.wait_for(token_cache.lock_of(directory), f'the token cache {directory}'):
        if not is_done():
            token_cache.build(functools.partial(_examples, folder, count), directory, size, label)
        pieces.remove(folder)


def _pieces(texts: Iterable[str], vocabulary: Vocabulary) -> Iterator[pieces.Make]:
    piece: list[str] = []
    number = characters = 0
    for text in texts:
        piece.append(text)
        characters += len(text)
        if characters >= CHARACTERS << min(number // _EQUAL, _MOST_DOUBLINGS):
            yield functools.partial(_encode, vocabulary, piece)
            piece, characters, number = [], 0, number + 1
    if piece:
        yield functools.partial(_encode, vocabulary, piece)


def _encode(vocabulary: Vocabulary, texts: Iterable[str], path: Path) -> None:
    tokens, num_bytes = zip(*encode_documents(vocabulary, texts), strict=True)
    with path.open('wb') as file:
        np.savez(file, tokens=np.concatenate(tokens), lengths=[*map(len, tokens)], num_bytes=num_bytes)
        file.flush()
        os.fsync(file.fileno())


def _examples(folder: Path, count: int, first: int) -> Iterator[token_cache.Example]:
    """Yield the documents of all pieces from number `first` on."""
    for number in range(count):
        with np.load(pieces.path_of(folder, number)) as piece:
            lengths, num_bytes = piece['lengths'], piece['num_bytes']
            if first < len(lengths):
                documents = np.split(piece['tokens'], np.cumsum(lengths)[:-1])
                yield from zip(documents[first:], num_bytes[first:].tolist(), strict=True)
            first = max(0, first - len(lengths))
