"""The words of a row of tokens."""

from __future__ import annotations

import dataclasses
import itertools
import re
import unicodedata
from collections.abc import Sequence
from typing import Protocol

from palm_jax.special_ids import BOS_ID, EOS_ID

# Scripts without blanks between words, each of whose characters counts as a word.
_UNSPACED = re.compile('[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]')
_INSIDE = "'’"  # part of a word between two letters


class TokenBytes(Protocol):
    """The part of a vocabulary that is read here."""

    def token_bytes(self, i: int) -> bytes | None:
        """Return the UTF-8 bytes that an id adds to a text; None if it adds none."""


@dataclasses.dataclass(frozen=True)
class Word:
    """A word of a text that a model reads.

    Attributes:
      text: word, without the blanks before it.
      tokens: positions of its tokens in the row, those of the blanks before it included.
      part: number of the text that it belongs to; texts are separated by special tokens.
    """

    text: str
    tokens: tuple[int, ...]
    part: int = 0


def words_of(ids: Sequence[int], vocabulary: TokenBytes, end: int | None = None) -> tuple[Word, ...]:
    """Return the words of a row of token ids.

    Every token that stands for text belongs to exactly one word: blanks to the word after them, a token that reaches
    over two words to the first. A word is a run of letters and digits, a punctuation mark, or a Chinese or Japanese
    character.

    Args:
      ids: token ids; BOS and EOS separate texts and belong to no word.
      vocabulary: vocabulary of the ids.
      end: number of leading ids to read; None reads all.
    """
    words: list[Word] = []
    positions = range(len(ids) if end is None else end)
    groups = itertools.groupby(positions, lambda i: ids[i] in (BOS_ID, EOS_ID))
    texts = (list(group) for is_special, group in groups if not is_special)
    for part, text in enumerate(texts):
        pieces = [vocabulary.token_bytes(int(ids[i])) for i in text]
        words += _words_of_text(text, [piece or '�'.encode() for piece in pieces], part)
    return tuple(words)


def _words_of_text(positions: Sequence[int], pieces: Sequence[bytes], part: int) -> list[Word]:
    """Return the words of tokens with their bytes."""
    text = b''.join(pieces).decode('utf-8', errors='surrogateescape')
    ends = list(itertools.accumulate(len(c.encode('utf-8', errors='surrogateescape')) for c in text))
    spans = [(ends[first - 1] if first else 0, ends[last - 1], text[first:last]) for first, last in _spans(text)]
    if not spans:
        return [Word(text, tuple(positions), part)]
    tokens: list[list[int]] = [[] for _ in spans]
    word = end = 0
    for position, piece in zip(positions, pieces, strict=True):
        start, end = end, end + len(piece)
        while word + 1 < len(spans) and start >= spans[word][1]:
            word += 1
        tokens[word].append(position)
    words: list[Word] = []
    for (_, _, found), held in zip(spans, tokens, strict=True):
        shown = found.encode('utf-8', errors='surrogateescape').decode('utf-8', errors='replace')
        if held or not words:
            words.append(Word(shown, tuple(held), part))
        else:  # its only token began in the word before
            words[-1] = dataclasses.replace(words[-1], text=f'{words[-1].text} {shown}')
    return words


def _spans(text: str) -> list[tuple[int, int]]:
    """Return where each word of a text begins and ends, in characters."""
    spans: list[tuple[int, int]] = []
    is_open = False
    for i, character in enumerate(text):
        if character.isspace():
            is_open = False
            continue
        neighbours = text[max(i - 1, 0) : i + 2]
        is_inside = character in _INSIDE and len(neighbours) == 3 and all(map(_is_of_word, neighbours[::2]))
        if is_open and (is_inside or _is_of_word(character)):
            spans[-1] = (spans[-1][0], i + 1)
        else:
            spans.append((i, i + 1))
            is_open = _is_of_word(character)
    return spans


def _is_of_word(character: str) -> bool:
    """Return whether a character may be in the middle of a word: letters, marks, digits, joiners, the underscore."""
    if _UNSPACED.match(character):
        return False
    return (
        character == '_'
        or unicodedata.category(character) in ('Cf', 'Cn', 'Co')
        or (unicodedata.category(character)[0] in 'LMN')
    )
