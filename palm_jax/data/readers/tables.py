"""Tables of text: CSV, TSV, JSON lines, JSON and Parquet; errors name the file and the row."""

from __future__ import annotations

import csv
import dataclasses
import fnmatch
import functools
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, Literal

from palm_jax.data.readers.bad_rows import BadRows, shared_bad_rows
from palm_jax.data.readers.files import COMPRESSED, LONGEST_LINE, File, check_text, glob_files
from palm_jax.errors import UserError, closest
from palm_jax.wording import counted

_DELIMITERS = {'.csv': ',', '.tsv': '\t', '.txt': '\t'}
csv.field_size_limit(LONGEST_LINE)  # a text may be longer than Python's 131,072 characters
SUFFIXES = (*_DELIMITERS, '.jsonl', '.json', '.parquet')
UNANSWERABLE = 'unanswerable'  # the answer to a SQuAD 2 question that has none


@dataclasses.dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
      values: values by column name.
      location: file and line: `file, line 7`.
    """

    values: dict[str, str]
    location: str


@functools.cache
def read(
    pattern: str,
    columns: tuple[tuple[str, str], ...],
    binding: str,
    header: tuple[str, ...] | None = None,
    bad_rows: str | None = None,
) -> tuple[Row, ...]:
    """Read the rows of a file, or of all files that a glob matches.

    Args:
      pattern: path, glob or URL of UTF-8 files, plain or compressed (`.gz`, `.zst`, ...), in one of these formats:
        `.csv`, `.tsv`: one row per line, after a header; `.txt`: tab-separated, without a header;
        `.jsonl`: one object per line; `.parquet`;
        `.json`: a list of objects or of lists; `file.json#name` (or a glob of names) selects lists from an object
        that holds several; SQuAD questions become rows with `question`, `context`, `answer` and `answers`.
      columns: (macro, name) of the columns that every row must have.
      binding: macro that holds the pattern, for messages.
      header: column names for files without a header.
      bad_rows: file that collects unusable rows, see `BadRows`; None makes the first of them an error.

    Raises:
      UserError: if a row is invalid (the message gives the file, the line, what was found and what was
        expected), or if there are no rows.
    """
    split = re.fullmatch(r'(.*\.json(?:\.\w+)?)#(.+)', pattern)
    files, part = (pattern, None) if split is None else split.groups()
    bad = shared_bad_rows(bad_rows)

    def check_columns(row: Row) -> Row:
        for name_binding, column in columns:
            require(row, column, name_binding)
        return row

    everything = (row for file in glob_files(files, binding) for row in rows(file, binding, header, part, bad))
    found = tuple(bad.keep(everything, check_columns))
    bad.report()
    if not found:
        raise UserError(f'{binding} = {pattern!r}: the file contains no rows.')
    return found


def require(row: Row, column: str, binding: str) -> str:
    """Return the value of a column that a row must have."""
    if column not in row.values:
        raise UserError(
            f'{row.location}: no column {column!r}.{closest(column, row.values)} '
            f'Columns: {", ".join(row.values)}. Name yours with --gin.{binding}=...'
        )
    if not row.values[column].strip():
        raise UserError(f'{row.location}: the column {column!r} is empty.')
    return row.values[column]


def rows(
    file: File,
    binding: str,
    header: Sequence[str] | None = None,
    part: str | None = None,
    bad: BadRows = shared_bad_rows(None),
) -> Iterator[Row]:
    """Yield the rows of one file, one at a time where its format allows it; for the arguments see `read`."""
    if file.suffix not in SUFFIXES:
        raise UserError(
            f'{binding} = {file.name!r}: {file.suffix!r} is not a table format. Formats: {", ".join(SUFFIXES)} '
            f'(and compressed: {", ".join(COMPRESSED)}).'
        )
    if file.suffix == '.jsonl':
        lines = ((f'{file.name}, line {number}', line.rstrip()) for number, line in file.lines() if line.strip())
        return bad.keep(lines, lambda line: _row(_parse_json(check_text(line[1], line[0]), line[0]), line[0]))
    if file.suffix == '.parquet':
        return bad.keep(_parquet(file), lambda row: _row(*row))
    if file.suffix == '.json':
        return bad.keep(_json(file.text(), file.name, header, part), lambda row: _row(*row))
    return bad.keep(_delimited(file, header), lambda parse: parse())


def _delimited(file: File, header: Sequence[str] | None) -> Iterator[Callable[[], Row]]:
    """Yield a function for every line that returns its row or raises what is wrong with it."""
    if file.suffix == '.txt' and header is None:
        raise UserError(
            f"{file.name}: a .txt table has no header; name its columns: --gin.COLUMNS=\"['input', 'target']\"."
        )
    delimiter = _DELIMITERS[file.suffix]
    quoting: Literal[0, 3] = csv.QUOTE_NONE if file.suffix == '.txt' else csv.QUOTE_MINIMAL
    reader = csv.reader((line for _, line in file.lines()), delimiter=delimiter, strict=True, quoting=quoting)

    def parse(values: list[str] | csv.Error, names: Sequence[str], location: str) -> Row:
        if isinstance(values, csv.Error):
            raise UserError(
                f'{location}: {values}. Close the quotes around a text, and double those inside it: "a ""b"" c".'
            )
        for value in values:
            check_text(value, location)
        if len(values) != len(names):
            raise UserError(
                f'{location}: {counted(len(values), "value")}, but the header has {counted(len(names), "column")} '
                f'({", ".join(names)}). Put quotes around texts that contain {delimiter!r}.'
            )
        return Row(dict(zip(names, values, strict=True)), location)

    while True:
        try:
            values: list[str] | csv.Error = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            values = error
        if not values:
            continue
        location = f'{file.name}, line {reader.line_num}'
        if header is None and not isinstance(values, csv.Error):
            header = _header(values, location, file.suffix)
            continue
        yield functools.partial(parse, values, header or (), location)


def _header(values: Sequence[str], location: str, suffix: str) -> list[str]:
    delimiter = _DELIMITERS[suffix]
    names = [check_text(name, location).strip() for name in values]
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise UserError(f'{location}: the header names the column {repeated[0]!r} {names.count(repeated[0])} times.')
    other = next((mark for mark in ';\t|,' if mark != delimiter and mark in names[0]), None)
    if len(names) == 1 and other is not None:
        raise UserError(
            f'{location}: the columns are separated by {other!r}, but those of a {suffix} file by '
            f'{delimiter!r}. Save it with {delimiter!r}, or name it .tsv if they are separated by tabs.'
        )
    return names


def _parquet(file: File) -> Iterator[tuple[Any, str]]:
    from pyarrow import ArrowInvalid, parquet

    with file.open() as content:
        try:
            seekable = content if file.suffix == PurePath(file.name).suffix else io.BytesIO(content.read())
            batches = parquet.ParquetFile(seekable).iter_batches()
            for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
                yield row, f'{file.name}, row {number}'
        except ArrowInvalid as error:
            raise UserError(f'{file.name}: not a valid Parquet file ({error}).') from None


def _json(text: str, path: str, header: Sequence[str] | None, part: str | None) -> list[tuple[Any, str]]:
    value = _parse_json(text, path)
    if isinstance(value, dict) and part is None and _is_squad(value):
        return _squad(value, path)
    if part is not None:
        lists = value if isinstance(value, dict) else {}
        names = [name for name in lists if fnmatch.fnmatchcase(name, part)]
        if not names:
            raise UserError(f'{path}: no list called {part!r}.{closest(part, lists)} Its lists: {", ".join(lists)}.')
        value = [item for name in names for item in lists[name]]
    if not isinstance(value, list | dict):
        raise UserError(f'{path}: expected a list of rows [...], found {type(value).__name__}.')
    if isinstance(value, dict):
        name = next(iter(value), '...')
        raise UserError(f'{path}: expected a list of rows, found an object. Name a list in it: {path}#{name}')
    locations = [f'{path}, item {number}' for number in range(1, len(value) + 1)]
    return [(_with_names(item, location, header), location) for item, location in zip(value, locations, strict=True)]


def _parse_json(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f', line {error.lineno}' if 'line' not in location else ''
        raise UserError(f'{location}{line}, column {error.colno}: invalid JSON ({error.msg}).') from None


def _with_names(value: Any, location: str, header: Sequence[str] | None) -> Any:
    """Return a list as an object with the names of the header, else 0, 1, ...; return other values unchanged."""
    if not isinstance(value, list):
        return value
    names = header or [str(i) for i in range(len(value))]
    if len(names) != len(value):
        raise UserError(f'{location}: {counted(len(value), "value")}, but COLUMNS has {counted(len(names), "name")}.')
    return dict(zip(names, value, strict=True))


def _row(value: Any, location: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f'{location}: expected an object {{...}}, found {type(value).__name__}.')
    return Row({name: _text(v) for name, v in value.items()}, location)


def _text(value: Any) -> str:
    if value is None:
        return ''
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _is_squad(value: dict[str, Any]) -> bool:
    articles = value.get('data')
    return isinstance(articles, list) and all(isinstance(a, dict) and 'paragraphs' in a for a in articles)


def _squad(value: dict[str, Any], path: str) -> list[tuple[Any, str]]:
    found: list[tuple[Any, str]] = []
    for number, paragraph in enumerate((p for article in value['data'] for p in article['paragraphs']), 1):
        location = f'{path}, paragraph {number}'
        for question in _part(paragraph, 'qas', location):
            location = f'{path}, question {question.get("id", len(found) + 1)}'
            answers = list(dict.fromkeys(_part(a, 'text', location) for a in _part(question, 'answers', location)))
            answers = answers or [UNANSWERABLE]
            values = {
                'question': _part(question, 'question', location),
                'context': _part(paragraph, 'context', location),
                'answer': answers[0],
                'answers': answers,
            }
            found.append((values, location))
    return found


def _part(value: Any, name: str, location: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        found = ', '.join(value) if isinstance(value, dict) else type(value).__name__
        raise UserError(f"{location}: SQuAD's format requires {name!r} here; found: {found}.")
    return value[name]
