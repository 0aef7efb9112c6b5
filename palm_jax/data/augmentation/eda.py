"""Easy data augmentation (Wei and Zou, arXiv 1901.11196): four operators on words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from palm_jax.bounds import AtLeast, AtMost, checked
from palm_jax.data.augmentation import thesaurus
from palm_jax.data.augmentation.augmented import TextAugmenter
from palm_jax.data.augmentation.thesaurus import Thesaurus
from palm_jax.errors import UserError

Operator = Literal['replacement', 'insertion', 'swap', 'deletion']
OPERATORS: tuple[Operator, ...] = get_args(Operator)
_TRIES = 10  # for a word with a synonym


@checked
@dataclasses.dataclass(frozen=True)
class EDA(TextAugmenter):
    """Synonym replacement, random insertion of a synonym, random swap of two words, or random deletion.

    A copy is made by one operator; the copies of a row take turns. An operator changes n = max(1, α·words) words;
    deletion drops each word with probability α.

    Attributes:
      alpha: share α of words that are changed (paper: 0.05 with up to 500 examples, else 0.1).
      operators: `replacement`, `insertion`, `swap` and `deletion`; None takes all four, or the last two without a
        thesaurus. Where the meaning depends on the order of words, leave out `swap` and `deletion`.
      thesaurus: file of synonyms, see `thesaurus.read`, for `replacement` and `insertion`; None has none.
    """

    alpha: Annotated[float, AtLeast(0), AtMost(1)] = 0.1
    operators: Sequence[Operator] | None = None
    thesaurus: str | None = None

    name = 'EDA'

    def __post_init__(self) -> None:
        """Check the operators.

        Raises:
          UserError: one does not exist, or needs a thesaurus.
        """
        for operator in self.operators or ():
            if operator not in OPERATORS:
                raise UserError(f'EDA_OPERATORS: {operator!r} does not exist; possible: {", ".join(OPERATORS)}.')
            if self.thesaurus is None and operator in OPERATORS[:2]:
                raise UserError(
                    f'EDA_OPERATORS: {operator!r} needs synonyms: name a file of them, --gin.THESAURUS=synonyms.tsv.'
                )

    def change(self, words, copy, rng):
        """Return the words, changed by the operator whose turn it is."""
        if not words:
            return words
        operators = self.operators or OPERATORS[0 if self.thesaurus else 2 :]
        operator = operators[copy % len(operators)]
        count = max(1, int(self.alpha * len(words)))
        if operator == 'swap':
            return swap(words, count, rng)
        if operator == 'deletion':
            return delete(words, self.alpha, rng)
        assert self.thesaurus is not None
        synonyms = thesaurus.read(self.thesaurus)
        return (replace if operator == 'replacement' else insert)(words, count, synonyms, rng)


def replace(words: Sequence[str], count: int, synonyms: Thesaurus, rng: np.random.Generator) -> list[str]:
    """Replace `count` words that are not stop words, everywhere in the text, by a random synonym of each."""
    result, replaced = list(words), 0
    candidates = [word for word in dict.fromkeys(words) if word.lower() not in ENGLISH_STOP_WORDS]
    for word in (candidates[i] for i in rng.permutation(len(candidates))):
        if found := synonyms.synonyms(word):
            synonym = found[rng.integers(len(found))]
            result = [synonym if other == word else other for other in result]
            replaced += 1
        if replaced == count:
            break
    return result


def insert(words: Sequence[str], count: int, synonyms: Thesaurus, rng: np.random.Generator) -> list[str]:
    """Insert a random synonym of a random word that is not a stop word at a random place, `count` times."""
    result = list(words)
    candidates = [word for word in words if word.lower() not in ENGLISH_STOP_WORDS]
    for _ in range(count if candidates else 0):
        for _ in range(_TRIES):
            if found := synonyms.synonyms(candidates[rng.integers(len(candidates))]):
                result.insert(int(rng.integers(len(result) + 1)), found[rng.integers(len(found))])
                break
    return result


def swap(words: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Swap two random words, `count` times."""
    result = list(words)
    for _ in range(count if len(words) > 1 else 0):
        i, j = rng.choice(len(result), 2, replace=False)
        result[i], result[j] = result[j], result[i]
    return result


def delete(words: Sequence[str], probability: float, rng: np.random.Generator) -> list[str]:
    """Drop each word with a probability; if none is left, keep a random one."""
    kept = [word for word, draw in zip(words, rng.random(len(words)), strict=True) if draw >= probability]
    return kept or [words[int(rng.integers(len(words)))]]
