"""Ids for what no text holds: masks, sentinels, modes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from palm_jax.data.vocabulary.vocabularies import Vocabulary
from palm_jax.errors import UserError, closest


@dataclasses.dataclass(frozen=True)
class ExtendedVocabulary:
    """A vocabulary with ids above its own for what no text holds.

    From below: the mask, [CLS] and [SEP] of BERT, and the modes of UL2; from the top down the
    sentinels, as in T5. The mapping of text is the vocabulary's own, and so are fingerprint and file.

    Attributes:
      text: the vocabulary of the text.
      extra_ids: how many there are above it.
    """

    SPECIAL_TOKENS = ('[MASK]', '[CLS]', '[SEP]', '[NLU]', '[NLG]', '[S2S]')

    text: Vocabulary
    extra_ids: int = 0

    @property
    def size(self) -> int:
        return self.text.size + self.extra_ids

    @property
    def fingerprint(self) -> str:
        return self.text.fingerprint

    @property
    def num_sentinels(self) -> int:
        """Sentinels there are."""
        return max(0, self.extra_ids - len(self.SPECIAL_TOKENS))

    def special_id(self, name: str) -> int:
        """The id of one of `SPECIAL_TOKENS`.

        Raises:
          UserError: the vocabulary has no ids for marks.
        """
        if name not in self.SPECIAL_TOKENS:
            raise UserError(
                f'Unknown special token {name!r}.{closest(name, self.SPECIAL_TOKENS)} '
                f'Known: {", ".join(self.SPECIAL_TOKENS)}.'
            )
        if self.extra_ids < len(self.SPECIAL_TOKENS):
            raise UserError(
                f'This objective writes {name}, and the vocabulary has EXTRA_IDS = {self.extra_ids} ids above the '
                f"text's. Bind at least {len(self.SPECIAL_TOKENS)}, and one for every sentinel: --gin.EXTRA_IDS=128"
            )
        return self.text.size + self.SPECIAL_TOKENS.index(name)

    def sentinel(self, number: int) -> int:
        """The id of sentinel `number`, counted down from the top.

        Raises:
          UserError: there are not so many.
        """
        if number >= self.num_sentinels:
            needed = number + 1 + len(self.SPECIAL_TOKENS)
            raise UserError(
                f'This objective needs {number + 1} sentinels, and EXTRA_IDS = {self.extra_ids} holds '
                f'{self.num_sentinels}. Bind at least --gin.EXTRA_IDS={needed}, or shorter sequences.'
            )
        return self.size - 1 - number

    def encode(self, text: str) -> list[int]:
        return self.text.encode(text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return self.text.encode_all(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """As of `text`, with marks and sentinels by their names."""
        pieces = []
        for is_text, group in itertools.groupby(map(int, ids), lambda i: i < self.text.size):
            run = list(group)
            pieces.append(self.text.decode(run) if is_text else ''.join(map(self._name, run)))
        return ''.join(pieces)

    def _name(self, mark: int) -> str:
        if mark >= self.size:
            return ''  # a row of the model's table that stands for nothing
        above = mark - self.text.size
        return self.SPECIAL_TOKENS[above] if above < len(self.SPECIAL_TOKENS) else f'<extra_id_{self.size - 1 - mark}>'

    def save(self, directory: Path) -> None:
        self.text.save(directory)

    @functools.cached_property
    def word_ends(self) -> tuple[np.ndarray, np.ndarray]:
        """bool [V], bool [V]: whether an id's text begins, and ends, inside a word.

        Letters, digits and _ are a word's; a Chinese or Japanese character is a word of its own;
        what is no character by itself (a byte of one) belongs to the word it stands in.
        """
        texts = [self.text.decode([i]) for i in range(self.text.size)]
        begins, ends = (np.zeros(self.size, bool) for _ in range(2))
        begins[: len(texts)] = [bool(t) and _in_word(t[0]) for t in texts]
        ends[: len(texts)] = [bool(t) and _in_word(t[-1]) for t in texts]
        return begins, ends


def _in_word(character: str) -> bool:
    if '\u3040' <= character <= '\u9fff':  # kana and Chinese characters, which no space parts
        return False
    return character.isalnum() or character in ('_', '\ufffd')
