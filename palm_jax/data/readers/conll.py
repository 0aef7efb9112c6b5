"""Sentences with a tag a word, in CoNLL's columns, read with the place of every mistake."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator

from palm_jax.data.readers.bad_rows import shared_bad_rows
from palm_jax.data.readers.files import File, checked, glob_files
from palm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sentence:
    """Words with their tags, and where they stand: `file, line 7`."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    location: str


@functools.cache
def read(
    pattern: str, binding: str, tag_column: int = -1, word_pattern: str | None = None, bad_rows: str | None = None
) -> tuple[Sentence, ...]:
    """The sentences of a file, or of all files that a glob matches.

    A line is a word and its tags in columns, between tabs or blanks; an empty line ends a
    sentence; `-DOCSTART-` lines are skipped.

    Args:
      pattern: path, glob or URL, UTF-8, plain or compressed.
      binding: names the pattern in messages.
      tag_column: counted from 0, or from the end by negative numbers.
      word_pattern: regular expression whose first group is the word: of `科0`, `(.)[0-9]`.
      bad_rows: file for sentences that cannot be used, see `BadRows`.

    Raises:
      UserError: with the file, the line, what was found and what was expected.
    """
    bad, column = (
        shared_bad_rows(bad_rows),
        functools.partial(_columns, tag_column=tag_column, word_pattern=word_pattern),
    )
    groups = (group for file in glob_files(pattern, binding) for group in _groups(file))
    sentences = tuple(bad.keep(groups, functools.partial(_sentence, column=column)))
    bad.report()
    if not sentences:
        raise UserError(f'{binding} = {pattern!r}: there is not one sentence.')
    return sentences


def _groups(file: File) -> Iterator[list[tuple[str, str]]]:
    """(place, line) of every sentence's lines."""
    group: list[tuple[str, str]] = []
    for number, line in file.lines():
        if line.strip() and not line.startswith('-DOCSTART-'):
            group.append((f'{file.name}, line {number}', line.rstrip('\r\n')))
        elif group:
            yield group
            group = []
    if group:
        yield group


def _sentence(group: list[tuple[str, str]], column: Callable[[str, str], tuple[str, str]]) -> Sentence:
    words, tags = zip(*(column(line, location) for location, line in group), strict=True)
    return Sentence(words, tags, group[0][0])


def _columns(line: str, location: str, tag_column: int, word_pattern: str | None) -> tuple[str, str]:
    """The word and the tag of a line."""
    checked(line, location)
    columns = line.split('\t') if '\t' in line else line.split()
    if len(columns) < 2 or not -len(columns) <= tag_column < len(columns):
        raise UserError(
            f'{location}: {len(columns)} column(s) in {line!r}, but a line is a word and its tag '
            f'(TAG_COLUMN = {tag_column}), between tabs or blanks.'
        )
    return _word(columns[0], word_pattern, location), _tag(columns[tag_column].strip(), line, location)


def _word(text: str, pattern: str | None, location: str) -> str:
    if pattern is None:
        return text
    match = re.fullmatch(pattern, text)
    if match is None or not match.groups():
        raise UserError(f'{location}: WORD_PATTERN = {pattern!r} finds no word (its first group) in {text!r}.')
    return match[1]


def _tag(tag: str, line: str, location: str) -> str:
    if tag == 'O' or re.fullmatch(r'[BIES]-.+', tag):
        return tag
    raise UserError(f'{location}: {tag!r} in {line!r} is no tag; tags are O, B-TYPE and I-TYPE (also E- and S-).')
