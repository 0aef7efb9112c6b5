"""Evaluation texts that training text nearly repeats: MinHash with locality-sensitive hashing, then the similarity.

Texts are sets of characters in a row (shingles), so that every script can be compared. MinHash (Broder, "On the
resemblance and containment of documents", 1997) finds candidates, by `datasketch`; the Jaccard similarity of two sets,
|A ∩ B| / |A ∪ B|, decides. Only the evaluation texts are kept in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from palm_jax.errors import UserError

_SHINGLE = 5  # characters
_HASHES = 128
_MARGIN = 0.15  # candidates may seem this much less similar than they are


@dataclasses.dataclass(frozen=True)
class NearDuplicate:
    """The training text that is most similar to an evaluation text.

    Attributes:
      similarity: Jaccard similarity of the two.
      text: the training text.
    """

    similarity: float
    text: str


class NearDuplicates:
    """Compares evaluation texts with training texts, which pass by once.

    Args:
      texts: evaluation texts.
      least: lowest similarity of a near-duplicate, in (0, 1].

    Attributes:
      found: the most similar training text of each evaluation text; None where no similarity is at least `least`.

    Raises:
      UserError: datasketch is not installed.
    """

    def __init__(self, texts: Sequence[str], least: float = 0.8):
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError:
            raise UserError('Near-duplicates need datasketch: pip install "palm_jax[contamination]"') from None
        self._min_hash, self._least = MinHash, least
        self._index = MinHashLSH(threshold=max(0.05, least - _MARGIN), num_perm=_HASHES, weights=(0.1, 0.9))
        self._sets = [_shingles(text) for text in texts]
        for number, shingles in enumerate(self._sets):
            if shingles:
                self._index.insert(number, self._sketch(shingles))
        self.found: list[NearDuplicate | None] = [None] * len(texts)

    def add(self, text: str) -> None:
        """Compare a training text with all evaluation texts."""
        shingles = _shingles(text)
        if not shingles:
            return
        for number in self._index.query(self._sketch(shingles)):
            own, best = self._sets[number], self.found[number]
            similarity = len(own & shingles) / len(own | shingles)
            if similarity >= self._least and (best is None or similarity > best.similarity):
                self.found[number] = NearDuplicate(similarity, text)

    def passing(self, training: Iterable[str]) -> Iterable[str]:
        """Yield training texts, and compare each on its way."""
        for text in training:
            self.add(text)
            yield text

    def _sketch(self, shingles: set[str]):
        sketch = self._min_hash(num_perm=_HASHES)
        sketch.update_batch([shingle.encode('utf-8', 'surrogatepass') for shingle in shingles])
        return sketch


def _shingles(text: str) -> set[str]:
    """Return all sequences of `_SHINGLE` characters, or all of a shorter text, without case and repeated blanks."""
    plain = ' '.join(text.lower().split())
    return {plain[i : i + _SHINGLE] for i in range(max(1, len(plain) - _SHINGLE + 1))} if plain else set()
