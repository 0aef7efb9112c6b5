"""How much of an evaluation set was in the training text, and the scores of its clean and dirty parts.

An evaluation text is dirty if at least 70% of its 8-grams of words occur in the training text (PaLM, arXiv 2204.02311,
section 8). Of a shorter text all of its words count as one n-gram. Training text is read once, and only the n-grams of
the evaluation set are kept, so that memory does not grow with the training text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from palm_jax.metrics import statistics
from palm_jax.metrics.texts import Words

Gram = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """The clean or the dirty part of an evaluation set.

    Attributes:
      count: number of texts.
      score: mean score; None of no texts, or without scores.
      interval: 95% bootstrap interval of the mean score; None likewise, and of a single text.
    """

    count: int
    score: float | None
    interval: tuple[float, float] | None


def overlaps(texts: Sequence[str], training: Iterable[str], size: int = 8) -> np.ndarray:
    """Return for each text the share of its n-grams that occur in the training text, float64 [E].

    Args:
      texts: texts of the evaluation set; a text without words has a share of 0.
      training: texts that were trained on.
      size: words of an n-gram.
    """
    of_texts = [set(_grams(_words(text), size)) for text in texts]
    wanted = {gram for grams in of_texts for gram in grams}
    sizes = {len(gram) for gram in wanted}
    found: set[Gram] = set()
    for text in training:
        words = _words(text)
        for length in sizes:
            found.update(gram for gram in _windows(words, length) if gram in wanted)
    return np.array([len(grams & found) / len(grams) if grams else 0.0 for grams in of_texts])


def parts(shares: np.ndarray, scores: np.ndarray | None, least: float = 0.7) -> dict[str, Part]:
    """Return the `clean` and the `dirty` part.

    Args:
      shares: share of the n-grams of each text that occur in the training text.
      scores: score of each text; None for none.
      least: share from which on a text is dirty.
    """
    is_dirty = shares >= least
    return {name: _part(rows, scores) for name, rows in (('clean', ~is_dirty), ('dirty', is_dirty))}


def _part(rows: np.ndarray, scores: np.ndarray | None) -> Part:
    if scores is None or not rows.any():
        return Part(int(rows.sum()), None, None)
    chosen = scores[rows]
    interval = statistics.interval(len(chosen), lambda drawn: float(chosen[drawn].mean()))
    return Part(len(chosen), float(chosen.mean()), interval)


def training_texts(data: Any) -> Iterator[str]:
    """Yield the texts that a run was trained on: those of its table, or the sequences of its corpus.

    Args:
      data: data of a run; a corpus has been prepared.
    """
    if hasattr(data, 'examples'):
        for example in data.examples('train'):
            yield '\n'.join(data.texts(example))
        return
    for number in range(data.num_sequences):
        yield data.vocabulary.decode(data.batch(number, 1)['decoder_target_tokens'][0])


def _words(text: str) -> list[str]:
    """Return the words of a text without case; of Chinese and Japanese the characters."""
    return Words().tokenize(text)


def _grams(words: Sequence[str], size: int) -> Iterator[Gram]:
    return _windows(words, min(size, len(words))) if words else iter(())


def _windows(words: Sequence[str], length: int) -> Iterator[Gram]:
    return (tuple(words[i : i + length]) for i in range(len(words) - length + 1))
