"""Sentences with a tag a word, in CoNLL's columns, read with the place of every mistake."""

from __future__ import annotations

import dataclasses
import functools
import re

from palm_jax.data.files import find
from palm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sentence:
    """Words with their tags, and where they stand: `file, line 7`."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    place: str


@functools.cache
def read(pattern: str, binding: str, tag_column: int = -1, word_pattern: str | None = None) -> tuple[Sentence, ...]:
    """The sentences of a file, or of all files that a glob matches.

    A line is a word and its tags in columns, between tabs or blanks; an empty line ends a
    sentence; `-DOCSTART-` lines are skipped.

    Args:
      pattern: path, glob or URL, UTF-8, plain or compressed.
      binding: names the pattern in messages.
      tag_column: counted from 0, or from the end by negative numbers.
      word_pattern: regular expression whose first group is the word: of `科0`, `(.)[0-9]`.

    Raises:
      UserError: with the file, the line, what was found and what was expected.
    """
    sentences = []
    for file in find(pattern, binding):
        words, tags = [], []
        lines = file.text().split('\n')
        for number, line in enumerate([*lines, ''], 1):
            place = f'{file.name}, line {number}'
            columns = line.rstrip('\r').split('\t') if '\t' in line else line.split()
            if not any(column.strip() for column in columns) or columns[0] == '-DOCSTART-':
                if words:
                    sentences.append(Sentence(tuple(words), tuple(tags), f'{file.name}, line {number - len(words)}'))
                words, tags = [], []
                continue
            if len(columns) < 2 or not -len(columns) <= tag_column < len(columns):
                raise UserError(
                    f'{place}: {len(columns)} column(s) in {line!r}, but a line is a word and its tag '
                    f'(TAG_COLUMN = {tag_column}), between tabs or blanks.'
                )
            words.append(_word(columns[0], word_pattern, place))
            tags.append(_tag(columns[tag_column].strip(), line, place))
    if not sentences:
        raise UserError(f'{binding} = {pattern!r}: there is not one sentence.')
    return tuple(sentences)


def _word(text: str, pattern: str | None, place: str) -> str:
    if pattern is None:
        return text
    match = re.fullmatch(pattern, text)
    if match is None or not match.groups():
        raise UserError(f'{place}: WORD_PATTERN = {pattern!r} finds no word (its first group) in {text!r}.')
    return match[1]


def _tag(tag: str, line: str, place: str) -> str:
    if tag == 'O' or re.fullmatch(r'[BIES]-.+', tag):
        return tag
    raise UserError(f'{place}: {tag!r} in {line!r} is no tag; tags are O, B-TYPE and I-TYPE (also E- and S-).')
