"""Special tokens: masks, sentinels and mode tokens, with ids above those of the text."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from palm_jax.data.vocabulary.chat_template import ChatTemplate
from palm_jax.data.vocabulary.vocabulary import Ids, Vocabulary
from palm_jax.errors import UserError, closest


@dataclasses.dataclass(frozen=True)
class ExtendedVocabulary:
    """A vocabulary with special tokens above its own ids.

    Counted up from the text's ids: the mask, [CLS] and [SEP] of BERT, and the mode tokens of UL2; counted down from the
    last id: the sentinels, as in T5. Text is encoded by the text's vocabulary, whose fingerprint and file are kept.

    Attributes:
      text: vocabulary of the text.
      extra_ids: number of ids above it.
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
        """Number of sentinels."""
        return max(0, self.extra_ids - len(self.SPECIAL_TOKENS))

    def special_id(self, name: str) -> int:
        """Return the id of one of `SPECIAL_TOKENS`.

        Raises:
          UserError: if the name is unknown, or the vocabulary has no ids for special tokens.
        """
        if name not in self.SPECIAL_TOKENS:
            raise UserError(
                f'Unknown special token {name!r}.{closest(name, self.SPECIAL_TOKENS)} '
                f'Known: {", ".join(self.SPECIAL_TOKENS)}.'
            )
        if self.extra_ids < len(self.SPECIAL_TOKENS):
            raise UserError(
                f'This objective needs {name}, but EXTRA_IDS = {self.extra_ids} leaves no ids for special tokens. '
                f'Bind at least {len(self.SPECIAL_TOKENS)}, plus one for every sentinel: --gin.EXTRA_IDS=128'
            )
        return self.text.size + self.SPECIAL_TOKENS.index(name)

    def sentinel(self, number: int) -> int:
        """Return the id of sentinel `number`, counted down from the last id.

        Raises:
          UserError: if there are not enough sentinels.
        """
        if number >= self.num_sentinels:
            needed = number + 1 + len(self.SPECIAL_TOKENS)
            raise UserError(
                f'This objective needs {number + 1} sentinels, but EXTRA_IDS = {self.extra_ids} provides '
                f'{self.num_sentinels}. Bind at least --gin.EXTRA_IDS={needed}, or use shorter sequences.'
            )
        return self.size - 1 - number

    def encode(self, text: str) -> list[int]:
        return self.text.encode(text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return self.text.encode_all(texts)

    def decode(self, ids: Ids) -> str:
        """Return the text of ids, with special tokens by their names."""
        pieces = []
        for is_text, group in itertools.groupby(map(int, ids), lambda i: i < self.text.size):
            run = list(group)
            pieces.append(self.text.decode(run) if is_text else ''.join(map(self._name, run)))
        return ''.join(pieces)

    def _name(self, special_id: int) -> str:
        if special_id >= self.size:
            return ''  # an unused row of the model's embedding table
        index = special_id - self.text.size
        return (
            self.SPECIAL_TOKENS[index]
            if index < len(self.SPECIAL_TOKENS)
            else f'<extra_id_{self.size - 1 - special_id}>'
        )

    @functools.cached_property
    def has_text(self) -> np.ndarray:
        return np.concatenate([self.text.has_text, np.ones(self.extra_ids, bool)])  # special tokens have names

    @property
    def start_ids(self) -> tuple[int, ...]:
        return self.text.start_ids

    @property
    def chat_template(self) -> ChatTemplate | None:
        return self.text.chat_template

    @property
    def prefix_id(self) -> int:
        return self.text.prefix_id

    @property
    def unknown_id(self) -> int | None:
        return self.text.unknown_id

    def token_bytes(self, i: int) -> bytes | None:
        return self.text.token_bytes(i) if i < self.text.size else self._name(i).encode() or None

    def save(self, directory: Path) -> None:
        self.text.save(directory)

    @functools.cached_property
    def word_ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Two arrays bool [V]: whether the text of an id begins, and ends, inside a word.

        Words consist of letters, digits and _; every Chinese or Japanese character is a word of its own; an id that is
        not a whole character (a byte of one) belongs to the word around it.
        """
        texts = [self.text.decode([i]) for i in range(self.text.size)]
        begins, ends = (np.zeros(self.size, bool) for _ in range(2))
        begins[: len(texts)] = [bool(t) and _in_word(t[0]) for t in texts]
        ends[: len(texts)] = [bool(t) and _in_word(t[-1]) for t in texts]
        return begins, ends


def _in_word(character: str) -> bool:
    if '\u3040' <= character <= '\u9fff':  # kana and Chinese characters, written without spaces
        return False
    return character.isalnum() or character in ('_', '\ufffd')
