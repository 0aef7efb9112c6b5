"""Synonyms from a file of the user: MyThes, as LibreOffice has it, WordNet, or two columns."""

from __future__ import annotations

import codecs
import collections
import functools
import re
from collections.abc import Iterable, Mapping

from palm_jax.data.readers.files import File, glob_files
from palm_jax.errors import UserError

# What MyThes writes after words that mean something broader, something else or the opposite.
_NOT_THE_SAME = re.compile(r'\((?:generic|related|antonym|broader|narrower|similar) term\)|\(antonym\)')
_REMARK = re.compile(r'\s*\([^)]*\)')
_SEPARATORS = re.compile(r'[;|]')


class Thesaurus:
    """Synonyms by word, without regard to upper and lower case.

    Args:
      synonyms: synonyms by word in lower case.
    """

    def __init__(self, synonyms: Mapping[str, Iterable[str]]):
        self._synonyms = {word: tuple(dict.fromkeys(found)) for word, found in synonyms.items()}

    def __len__(self) -> int:
        return len(self._synonyms)

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Return the synonyms of a word, other than itself; capitalized if the word is."""
        found = [s for s in self._synonyms.get(word.lower(), ()) if s.lower() != word.lower()]
        return tuple(s[:1].upper() + s[1:] for s in found) if word[:1].isupper() else tuple(found)


@functools.cache
def read(pattern: str, binding: str = 'THESAURUS') -> Thesaurus:
    """Read a thesaurus.

    Args:
      pattern: path or glob, plain or compressed, of MyThes files (`th_en_US_v2.dat`: an encoding, then `word|2` and two
        lines `(noun)|synonym|synonym (generic term)`; what is marked as broader, related or an antonym is left out); of
        WordNet's `data.noun`, `data.verb`, `data.adj` and `data.adv`, whose lines are sets of synonyms; or of text with
        two columns, a word and a synonym or several separated by `;` or `|`, with a tab, or in `.csv` a comma, between
        the columns.
      binding: macro or flag that holds the pattern, for messages.

    Raises:
      UserError: a line is not of that form; the message names it.
    """
    found: dict[str, list[str]] = collections.defaultdict(list)
    for file in glob_files(pattern, binding):
        for word, synonyms in _READERS.get(file.suffix, _two_columns)(file):
            found[word.lower()] += synonyms
    if not found:
        raise UserError(f'{binding} = {pattern!r}: the file contains no synonyms.')
    return Thesaurus(found)


def _two_columns(file: File) -> Iterable[tuple[str, list[str]]]:
    separator = ',' if file.suffix == '.csv' else '\t'
    for number, line in file.lines():
        if not (line := line.strip('\r\n')).strip():
            continue
        word, *rest = line.split(separator, 1)
        synonyms = [s.strip().strip('"') for s in _SEPARATORS.split(rest[0])] if rest else []
        if not word.strip() or not any(synonyms):
            name = 'comma' if separator == ',' else 'tab'
            raise UserError(
                f'{file.name}, line {number}: a line needs a word, a {name}, and a synonym or several separated by ";".'
            )
        yield word.strip().strip('"'), [s for s in synonyms if s]


def _my_thes(file: File) -> Iterable[tuple[str, list[str]]]:
    with file.open() as content:
        encoding = content.readline().decode('ascii', errors='replace').strip()
        try:
            codec = codecs.lookup(encoding.replace('ISO8859', 'ISO-8859'))
            lines = codec.decode(content.read())[0].splitlines()
        except LookupError:
            raise UserError(
                f'{file.name}, line 1: a MyThes file begins with its encoding (UTF-8), not with {encoding[:40]!r}. '
                'For two columns give the file the suffix .tsv.'
            ) from None
        except UnicodeDecodeError as error:
            raise UserError(f'{file.name} is not {encoding}: {error.reason}.') from None
    position = 0
    while position < len(lines):
        word, _, count = lines[position].rpartition('|')
        if not word or not count.strip().isdigit():
            raise UserError(f'{file.name}, line {position + 2}: expected a word and its number of meanings: word|2')
        meanings = lines[position + 1 : position + 1 + int(count)]
        position += 1 + int(count)
        terms = [term for meaning in meanings for term in meaning.split('|')[1:]]
        kept = [_REMARK.sub('', term).strip() for term in terms if not _NOT_THE_SAME.search(term)]
        yield word, [term for term in kept if term]


def _wordnet(file: File) -> Iterable[tuple[str, list[str]]]:
    """Lines `offset lexicographer type count word id word id ...`; the licence before them is indented."""
    for number, line in file.lines():
        if line.startswith('  ') or not line.strip():
            continue
        fields = line.split()
        try:
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        except (IndexError, ValueError):
            raise UserError(f'{file.name}, line {number}: this is not a line of a data file of WordNet.') from None
        words = [_REMARK.sub('', word).replace('_', ' ') for word in words]
        for word in words if len(words) > 1 else ():
            yield word, words


_READERS = {'.dat': _my_thes} | dict.fromkeys(('.noun', '.verb', '.adj', '.adv'), _wordnet)
