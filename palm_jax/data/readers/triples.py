"""Triples of a knowledge graph: TSV, CSV, N-Triples and Turtle; errors name the file and the line."""

from __future__ import annotations

import csv
import dataclasses
import functools
import logging
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from palm_jax.data.readers.bad_rows import BadRows, shared_bad_rows
from palm_jax.data.readers.files import File, check_text, glob_files
from palm_jax.errors import UserError
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)
_LABEL = 'http://www.w3.org/2000/01/rdf-schema#label'
_LABELS = (_LABEL, 'rdfs:label')
_DELIMITERS = {'.tsv': '\t', '.txt': '\t', '.kg': '\t', '.csv': ','}
SUFFIXES = (*_DELIMITERS, '.nt', '.ttl')
_HEADER = re.compile(r'(head|subject|source|from|h)\t(relation|predicate|property|r)\t(tail|object|target|to|t)')
_OF_COLUMN = re.compile(r'(_id)?(:token)?$')  # what RecBole adds to the names of columns
_IRI = r'<(?P<{0}>(?:[^\x00-\x20<>"{{}}|^`\\]|\\u[0-9A-Fa-f]{{4}}|\\U[0-9A-Fa-f]{{8}})*)>'
_BLANK = r'(?P<{0}_blank>_:[\w.:-]*[\w:-])'
_STATEMENT = re.compile(
    rf'\s*(?:{_IRI}|{_BLANK})\s*'.format('head')
    + rf'{_IRI}\s*'.format('relation')
    + rf'(?:{_IRI}|{_BLANK}|'.format('tail')
    + r'"(?P<text>(?:[^"\\\r\n]|\\.)*)"(?:@(?P<language>[A-Za-z]+(?:-[A-Za-z0-9]+)*)|\^\^<[^\x00-\x20<>]*>)?)'
    + r'\s*\.\s*(?:#.*)?'
)
_ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))')
_ESCAPED = {'t': '\t', 'b': '\b', 'n': '\n', 'r': '\r', 'f': '\f', '"': '"', "'": "'", '\\': '\\'}
_WORDS = re.compile(r'(?<=[a-z0-9])(?=[A-Z])|_+')


@dataclasses.dataclass(frozen=True)
class Triple:
    """A fact: a relation between two entities, or between an entity and a value.

    Attributes:
      head: identifier of the first entity: its IRI, or what the column has.
      relation: identifier of the relation.
      tail: identifier of the second entity, or a text or number in quotation marks if the file has a literal.
      location: file and line.
    """

    head: str
    relation: str
    tail: str
    location: str = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class Triples:
    """Different facts, with what entities and relations are called.

    Attributes:
      facts: triples in the order of the files, each once.
      labels: names that the files give by `rdfs:label`, by identifier.
    """

    facts: tuple[Triple, ...]
    labels: Mapping[str, str]

    def entity(self, identifier: str) -> str:
        """Return the name of an entity or the text of a literal."""
        if identifier in self.labels:
            return self.labels[identifier]
        if identifier.startswith('"'):
            return identifier[1:-1]
        return local_name(identifier).replace('_', ' ').strip() if is_iri(identifier) else identifier

    def relation(self, identifier: str) -> str:
        """Return the name of a relation, in words: `capital of` for `capitalOf` and `capital_of`."""
        if identifier in self.labels:
            return self.labels[identifier]
        return ' '.join(_WORDS.sub(' ', local_name(identifier)).split()).lower()


def is_iri(identifier: str) -> bool:
    """Return whether an identifier is an IRI rather than a name."""
    return re.match(r'[A-Za-z][A-Za-z0-9+.-]*:\S+$', identifier) is not None


def local_name(identifier: str) -> str:
    """Return the last part of an IRI, decoded; another identifier as it is."""
    if not is_iri(identifier):
        return identifier
    return urllib.parse.unquote(re.split('[#/:]', identifier.rstrip('#/'))[-1])


@functools.cache
def read(pattern: str | None, binding: str, encoding: str | None = None, bad_rows: str | None = None) -> Triples:
    """Read the triples of a file, or of all files that a glob matches, plain or compressed.

    Args:
      pattern: path or glob of `.tsv`, `.txt` or `.kg` (head, relation and tail, with tabs between them), `.csv` (with
        commas), both with or without a header; `.nt` (N-Triples); `.ttl` (Turtle, by rdflib).
      binding: macro that holds the pattern, for messages.
      encoding: encoding of files that are not UTF-8; None: all are.
      bad_rows: file that collects unusable lines, see `BadRows`; None makes the first of them an error.

    Raises:
      UserError: a line is not a triple, there are none, or rdflib is needed and missing.
    """
    if pattern is None:
        raise UserError(f'{binding} is not set: name the file with your triples, --gin.{binding}=facts.tsv')
    bad, found, labels, num_blank = shared_bad_rows(bad_rows), dict[Triple, None](), dict[str, str](), 0
    for file in glob_files(pattern, binding, encoding):
        if file.suffix not in SUFFIXES:
            raise UserError(
                f'{binding} = {file.name!r}: {file.suffix!r} is not a format of triples: {", ".join(SUFFIXES)}.'
            )
        for triple, language in _facts(file, bad):
            if triple.head.startswith('_:') or triple.tail.startswith('_:'):
                num_blank += 1
            elif triple.relation in _LABELS:
                if language in (None, 'en') or triple.head not in labels:
                    labels[triple.head] = triple.tail.removeprefix('"').removesuffix('"')
            else:
                found.setdefault(triple)
    bad.report()
    if num_blank:
        _LOGGER.warning(f'{counted(num_blank, "triple")} of blank nodes, which have no name, are left out')
    if not found:
        raise UserError(f'{binding} = {pattern!r}: the file contains no triples{bad.why_none_is_left()}.')
    return Triples(tuple(found), labels)


def _facts(file: File, bad: BadRows) -> Iterator[tuple[Triple, str | None]]:
    """Yield the triples of a file with the language of the tail, if it has one."""
    if file.suffix == '.ttl':
        yield from _turtle(file)
        return
    parse: Callable[[int, str], tuple[Triple, str | None] | None]
    parse = functools.partial(_statement if file.suffix == '.nt' else _line, file)
    yield from filter(None, bad.keep(file.lines(), lambda numbered: parse(*numbered)))


def _line(file: File, number: int, line: str) -> tuple[Triple, str | None] | None:
    """Return the triple of a line with three columns; None for an empty line and for the header."""
    location, delimiter = f'{file.name}, line {number}', _DELIMITERS[file.suffix]
    line = check_text(line, location, file).rstrip('\r\n')
    if not line.strip():
        return None
    try:
        cells = next(csv.reader([line], strict=True)) if delimiter == ',' else line.split('\t')
    except csv.Error as error:
        raise UserError(f'{location}: {error}. Double quotation marks inside a cell: "a ""b"" c".') from None
    cells = [cell.strip() for cell in cells]
    if number == 1 and _HEADER.fullmatch('\t'.join(_OF_COLUMN.sub('', cell.lower()) for cell in cells)):
        return None
    if len(cells) != 3 or not all(cells):
        what = f'{counted(len(cells), "column")}' if len(cells) != 3 else 'an empty one'
        name = 'commas' if delimiter == ',' else 'tabs'
        raise UserError(
            f'{location}: a line needs a head, a relation and a tail with {name} between them, and this one has {what}.'
        )
    head, relation, tail = cells
    return Triple(head, relation, tail, location), None


def _statement(file: File, number: int, line: str) -> tuple[Triple, str | None] | None:
    """Return the triple of a line of N-Triples; None for an empty line and for a comment."""
    location = f'{file.name}, line {number}'
    line = check_text(line, location, file)
    if not line.strip() or line.lstrip().startswith('#'):
        return None
    found = _STATEMENT.fullmatch(line.rstrip('\r\n'))
    if found is None:
        raise UserError(
            f'{location}: not a statement of N-Triples, <head> <relation> <tail> . or <head> <relation> "text" . : '
            f'{line.strip()[:80]!r}'
        )
    unescaped = functools.partial(_unescape, location)
    head = found['head_blank'] or unescaped(found['head'])
    tail = f'"{unescaped(found["text"])}"' if found['text'] is not None else found['tail_blank']
    return Triple(head, unescaped(found['relation']), tail or unescaped(found['tail']), location), found['language']


def _unescape(location: str, text: str) -> str:
    def character(found: re.Match[str]) -> str:
        short, long, other = found.groups()
        try:
            return chr(int(short or long, 16)) if other is None else _ESCAPED[other]
        except (KeyError, ValueError, OverflowError):
            raise UserError(f'{location}: N-Triples has no escape {found[0]!r}.') from None

    return _ESCAPE.sub(character, text)


def _turtle(file: File) -> Iterator[tuple[Triple, str | None]]:
    """Yield the triples of a Turtle file, sorted."""
    try:
        import rdflib
        from rdflib.plugins.parsers.notation3 import BadSyntax
    except ImportError:
        raise UserError(
            f'{file.name}: Turtle needs rdflib: pip install "palm_jax[triples]". N-Triples (.nt) and .tsv do not.'
        ) from None
    graph = rdflib.Graph()
    try:
        graph.parse(data=file.text(), format='turtle', publicID='urn:base:')
    except BadSyntax as error:
        why = ' '.join(str(error.message).split())
        raise UserError(f'{file.name}, line {error.lines + 1}: not Turtle: {why[:200]}') from None
    except ValueError as error:
        raise UserError(f'{file.name}: not Turtle: {error}') from None

    def identifier(term: Any) -> str:
        if isinstance(term, rdflib.Literal):
            return f'"{term}"'
        return f'_:{term}' if isinstance(term, rdflib.BNode) else str(term)

    rows = [
        (Triple(*map(identifier, terms), file.name), getattr(terms[2], 'language', None))  # type: ignore[call-arg]
        for terms in graph
    ]
    yield from sorted(rows, key=lambda row: (row[0].head, row[0].relation, row[0].tail, str(row[1])))
