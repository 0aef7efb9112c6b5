"""Sentences with one tag per word in CoNLL columns; errors name the file and the line."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator

from palm_jax.data.readers.bad_rows import bad_rows_of
from palm_jax.data.readers.files import File, check_text, glob_files
from palm_jax.errors import UserError

_BLANKS = ' \t\r\n'  # separate columns; other white space of Unicode is part of a word
_COMMENT = re.compile(r'# (?:id |newdoc|newpar|[\w.-]+ = )')  # of CoNLL-U and MultiCoNER
_LETTERS = {'M': 'I', 'L': 'E', 'U': 'S', 'W': 'S'}


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A tagged sentence.

    Attributes:
      words: words.
      tags: one tag per word.
      location: file and line where it begins: `file, line 7`.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    location: str


@functools.cache
def read(
    pattern: str,
    binding: str,
    tag_column: int = -1,
    word_pattern: str | None = None,
    bad_rows: str | None = None,
    encoding: str | None = None,
) -> tuple[Sentence, ...]:
    """Read the sentences of a file, or of all files that a glob matches.

    A line holds a word and its tags in columns separated by tabs or spaces; an empty line ends a
    sentence; `-DOCSTART-` lines and CoNLL-U's comments are skipped.

    Args:
      pattern: path, glob or URL of files, plain or compressed.
      binding: macro that holds the pattern, for messages.
      tag_column: index of the tag column; negative indices count from the end.
      word_pattern: regular expression whose first group is the word: `(.)[0-9]` for `科0`; None takes the whole column.
      bad_rows: file that collects unusable sentences, see `BadRows`; None makes the first of them an error.
      encoding: encoding of files that are not UTF-8, see `File`.

    Raises:
      UserError: if a line is invalid (the message gives the file, the line, what was found and what was
        expected), or if there are no sentences.
    """
    bad, word = bad_rows_of(binding, bad_rows), None if word_pattern is None else _compiled(word_pattern)
    parse_line = functools.partial(_parse_line, tag_column=tag_column, word=word)
    groups = (group for file in glob_files(pattern, binding, encoding) for group in _groups(file))
    sentences = tuple(bad.keep(groups, functools.partial(_sentence, parse_line=parse_line)))
    bad.report()
    if not sentences:
        raise UserError(f'{binding} = {pattern!r}: the files contain no sentences{bad.why_none_is_left()}.')
    return sentences


def normal_tag(tag: str) -> str:
    """Return a tag of BMES, BILOU or BMEWO with the letters of BIOES: M is I, L is E, U and W are S."""
    letter, dash, name = tag.partition('-')
    return _LETTERS.get(letter, letter) + dash + name if dash else tag


def _groups(file: File) -> Iterator[list[tuple[str, str, File]]]:
    """Yield (line, location, file) of the lines of every sentence."""
    group: list[tuple[str, str, File]] = []
    for number, line in file.lines():
        if _COMMENT.match(line):
            continue
        if line.strip(_BLANKS) and not line.startswith('-DOCSTART-'):
            group.append((line.rstrip('\r\n'), f'{file.name}, line {number}', file))
        elif group:
            yield group
            group = []
    if group:
        yield group


def _sentence(group: list[tuple[str, str, File]], parse_line: Callable[[str, str, File], tuple[str, str]]) -> Sentence:
    words, tags = zip(*(parse_line(*line) for line in group), strict=True)
    return Sentence(words, tags, group[0][1])


def _parse_line(line: str, location: str, file: File, tag_column: int, word: re.Pattern[str] | None) -> tuple[str, str]:
    """Return the word and the tag of a line."""
    check_text(line, location, file)
    line = line.rstrip(_BLANKS)
    columns = line.split('\t') if '\t' in line else re.split(' +', line.lstrip(' '))
    if len(columns) < 2 or not -len(columns) <= tag_column < len(columns) or not columns[0]:
        raise UserError(
            f'{location}: {len(columns)} column(s) in {line!r}; a line needs a word and its tag '
            f'(TAG_COLUMN = {tag_column}), separated by tabs or spaces.'
        )
    return _word(columns[0], word, location), _tag(columns[tag_column].strip(_BLANKS), line, location)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f'WORD_PATTERN = {pattern!r} is not a regular expression: {error}.') from None
    if not compiled.groups:
        raise UserError(f"WORD_PATTERN = {pattern!r} has no group that is the word; put it in brackets: '(.+)[0-9]'.")
    return compiled


def _word(text: str, pattern: re.Pattern[str] | None, location: str) -> str:
    if pattern is None:
        return text
    match = pattern.fullmatch(text)
    if match is None or not match[1]:
        raise UserError(
            f'{location}: WORD_PATTERN = {pattern.pattern!r} does not match a word (its first group) in {text!r}.'
        )
    return match[1]


def _tag(tag: str, line: str, location: str) -> str:
    normal = normal_tag(tag)
    if normal == 'O' or re.fullmatch(r'[BIES]-.+', normal):
        return normal
    raise UserError(
        f'{location}: {tag!r} in {line!r} is not a tag; tags are O, B-TYPE and I-TYPE (also E- and S-, or BMES, BILOU).'
    )
