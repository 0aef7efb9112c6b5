"""Training texts with the words of other groups, for counterfactual logit pairing."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from palm_jax.bounds import AtLeast, Count, Seed, checked
from palm_jax.data.supervised.examples import Batch
from palm_jax.data.supervised.labelled_example import Example
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.errors import UserError
from palm_jax.whole_words import folded, pattern_of

_LOGGER = logging.getLogger(__name__)
_GENDER = (
    *(('he', 'she'), ('him', 'her'), ('his', 'her'), ('himself', 'herself'), ('man', 'woman'), ('men', 'women')),
    *(('boy', 'girl'), ('boys', 'girls'), ('father', 'mother'), ('son', 'daughter'), ('brother', 'sister')),
    *(('husband', 'wife'), ('uncle', 'aunt'), ('male', 'female'), ('mr', 'mrs'), ('sir', 'madam')),
)


class Substitutions:
    """Sets of words, one per group, that take each other's place.

    Args:
      sets: sets of at least two words or phrases; the word of a group has the same place in sets of one size. A word
        of several sets is replaced as the first of them says.

    Raises:
      UserError: a set is not one.
    """

    def __init__(self, sets: Sequence[Sequence[str]]):
        self._places: dict[str, tuple[Sequence[str], int]] = {}
        for words in sets:
            is_set = isinstance(words, list | tuple) and all(isinstance(w, str) and w.strip() for w in words)
            if not is_set or len({folded(w) for w in words}) < 2:
                raise UserError(
                    f'CLP_TERMS has {words!r}; it must be a list of sets of words: [["he", "she"], ["man", "woman"]]'
                )
            for place, word in enumerate(words):
                self._places.setdefault(' '.join(folded(word).split()), (words, place))
        longest_first = sorted(self._places, key=len, reverse=True)
        self._pattern = re.compile('|'.join(map(pattern_of, longest_first)), re.IGNORECASE)

    def replace(self, text: str, shift: int) -> str:
        """Return a text with every word of a set replaced by the one `shift` places further; case is kept.

        Args:
          text: text.
          shift: at least 1; of a set of n words, it counts modulo n − 1.
        """

        def other(match: re.Match[str]) -> str:
            words, place = self._places[' '.join(folded(match[0]).split())]
            found = words[(place + 1 + (shift - 1) % (len(words) - 1)) % len(words)]
            if match[0].isupper() and len(match[0]) > 1:
                return found.upper()
            return found[:1].upper() + found[1:] if match[0][0].isupper() else found

        return self._pattern.sub(other, text)

    @property
    def most(self) -> int:
        """Number of counterfactual texts that a text with a word of the largest set has."""
        return max(len(words) for words, _ in self._places.values()) - 1


@checked
@dataclasses.dataclass(frozen=True)
class Counterfactuals:
    """Texts with the words of other groups as features of the training texts; see `LabelledText.further`.

    The features are `counterfactual_tokens` and `counterfactual_segment_ids`, int32 [E, K, L], and
    `counterfactual_weights`, float32 [E, K], 0 where a text has no word of a group, or fewer than K counterfactuals.
    Of more than K they are drawn by the seed and the number of the row.

    Attributes:
      terms: sets of words that take each other's place, or a `.json` file with a list of such; `gender` for small
        English ones.
      copies: number K of counterfactual texts of a row.
      labels: labels whose texts are paired; None for all. Where the group may matter for the label, leave it out.
      lengths: {'inputs': L}, tokens per row.
      vocabulary: vocabulary of the base model.
      seed: seed of the choices.
    """

    reads: ClassVar = 'texts'
    terms: str | Sequence[Sequence[str]] = 'gender'
    copies: Annotated[int, AtLeast(1)] = 1
    labels: Sequence[str] | None = None
    lengths: Mapping[str, Count] = dataclasses.field(default_factory=dict)
    vocabulary: str = dataclasses.field(kw_only=True)
    seed: Seed = 0

    def features(self, examples: Sequence[Example], table: LabelledTable) -> Batch:
        """Return the features of training examples.

        Raises:
          UserError: the sets cannot be read, no text has a word of them, or a label does not exist.
        """
        if unknown := [name for name in self.labels or () if name not in table.labels]:
            raise UserError(f'CLP_LABELS: there is no label {unknown[0]!r}. Labels: {", ".join(table.labels)}.')
        substitutions = Substitutions(self._sets())
        data = LabelledText(table, self.lengths, self.vocabulary)
        pairs: list[tuple[str, str | None]] = []
        weights = np.zeros((len(examples), self.copies), np.float32)
        for row, example in enumerate(examples):
            found = self._of(example, substitutions, row, table)
            weights[row, : len(found)] = 1
            pairs += [*found, *[('', None)] * (self.copies - len(found))]
        if not weights.any():
            raise UserError('CLP_TERMS: no training text has one of these words, so that nothing would be paired.')
        _LOGGER.info(f'{weights.any(axis=1).mean():.1%} of the training texts have a counterfactual')
        batch, _ = data.inputs(pairs)
        shape = (len(examples), self.copies, -1)
        return {
            'counterfactual_tokens': batch['decoder_input_tokens'].reshape(shape),
            'counterfactual_segment_ids': batch['decoder_segment_ids'].reshape(shape),
            'counterfactual_weights': weights,
        }

    def _of(
        self, example: Example, substitutions: Substitutions, row: int, table: LabelledTable
    ) -> list[tuple[str, str | None]]:
        """Return the counterfactual texts of an example, or pairs of texts, at most K."""
        if self.labels is not None and not set(table.classes(example)) & set(self.labels):
            return []
        changed = [
            example.map_texts(functools.partial(substitutions.replace, shift=shift))
            for shift in range(1, substitutions.most + 1)
        ]
        others = list(dict.fromkeys((e.text, e.second_text) for e in changed if e.texts != example.texts))
        order = np.random.default_rng((self.seed, row)).permutation(len(others))[: self.copies]
        return [others[i] for i in sorted(order)]

    def _sets(self) -> Sequence[Sequence[str]]:
        if self.terms == 'gender':
            return _GENDER
        if not isinstance(self.terms, str):
            return self.terms
        try:
            found = json.loads(Path(self.terms).read_text(encoding='utf-8'))
        except OSError as error:
            raise UserError(
                f'CLP_TERMS = {self.terms!r} cannot be read: {error.strerror or error}. It is "gender", a .json file, '
                'or a list of sets.'
            ) from None
        except ValueError as error:
            raise UserError(f'CLP_TERMS = {self.terms!r} is not JSON: {error}.') from None
        if not isinstance(found, list) or not found:
            raise UserError(f'{self.terms} must hold a list of sets of words: [["he", "she"], ["man", "woman"]]')
        return found
