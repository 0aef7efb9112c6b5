"""AEDA (Karimi et al., arXiv 2108.13230): punctuation at random places."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from palm_jax.bounds import Above, AtMost, checked
from palm_jax.data.augmentation.augmented import TextAugmenter

MARKS = ('.', ';', '?', ':', '!', ',')


@checked
@dataclasses.dataclass(frozen=True)
class AEDA(TextAugmenter):
    """Inserts 1 to n·share marks of `. ; ? : ! ,` before random words of a text of n words; no word is lost or moved.

    Attributes:
      share: largest number of marks relative to the number of words (paper: a third).
    """

    share: Annotated[float, Above(0), AtMost(1)] = 1 / 3

    name = 'AEDA'

    def change(self, words, copy, rng):
        """Return the words with marks between them."""
        del copy
        if not words:
            return words
        count = rng.integers(1, max(1, int(self.share * len(words))) + 1)
        places = set(rng.choice(len(words), count, replace=False).tolist())
        result = []
        for place, word in enumerate(words):
            if place in places:
                result.append(MARKS[rng.integers(len(MARKS))])
            result.append(word)
        return result
