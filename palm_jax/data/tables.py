"""Tables of text: CSV, TSV and JSON lines, read with the place of every mistake."""

from __future__ import annotations

import csv
import dataclasses
import functools
import glob
import json
from pathlib import Path

from palm_jax.errors import UserError, closest

_SUFFIXES = {'.csv': ',', '.tsv': '\t', '.jsonl': None}


@dataclasses.dataclass(frozen=True)
class Row:
    """A row's values by column, and where it stands: `file, line 7`."""

    values: dict[str, str]
    place: str


@functools.cache
def read(pattern: str, columns: tuple[tuple[str, str], ...], binding: str) -> tuple[Row, ...]:
    """The rows of a file, or of all files that a glob matches.

    Args:
      pattern: path or glob of `.csv`, `.tsv` (with a header) or `.jsonl` files, UTF-8.
      columns: (binding, name) of the columns that every row must have.
      binding: names the pattern in messages.

    Raises:
      UserError: with the file, the line, what was found and what was expected.
    """
    paths = sorted(Path(p) for p in glob.glob(str(Path(pattern).expanduser()), recursive=True) if Path(p).is_file())
    if not paths:
        raise UserError(f'{binding} = {pattern!r}: no such file, and as a glob it matches none (from {Path.cwd()}).')
    rows = [row for path in paths for row in _rows(path, columns, binding)]
    if not rows:
        raise UserError(f'{binding} = {pattern!r}: there is not one row.')
    return tuple(rows)


def _rows(path: Path, columns: tuple[tuple[str, str], ...], binding: str) -> list[Row]:
    if path.suffix not in _SUFFIXES:
        raise UserError(f'{binding} = {str(path)!r}: a table is one of {", ".join(_SUFFIXES)}, not {path.suffix!r}.')
    data = path.read_bytes()
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b'\n') + 1
        raise UserError(
            f'{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8. Convert the file.'
        ) from None
    if '\0' in text:
        raise UserError(f'{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: a NUL byte; this is no text.')
    delimiter = _SUFFIXES[path.suffix]
    rows = _json_lines(text, path) if delimiter is None else _delimited(text, path, delimiter)
    for row in rows:
        for name_binding, column in columns:
            if column not in row.values:
                raise UserError(
                    f'{row.place}: no column {column!r}.{closest(column, row.values)} '
                    f'There are: {", ".join(row.values)}. Name yours with --gin.{name_binding}=...'
                )
            if not row.values[column].strip():
                raise UserError(f'{row.place}: the column {column!r} is empty.')
    return rows


def _delimited(text: str, path: Path, delimiter: str) -> list[Row]:
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    rows, header = [], None
    try:
        for values in reader:
            if not values:
                continue
            if header is None:
                header = [name.strip() for name in values]
                continue
            place = f'{path}, line {reader.line_num}'
            if len(values) != len(header):
                raise UserError(
                    f'{place}: {len(values)} values, but the header has {len(header)} columns '
                    f'({", ".join(header)}). A text that holds {delimiter!r} needs quotes.'
                )
            rows.append(Row(dict(zip(header, values, strict=True)), place))
    except csv.Error as error:
        raise UserError(f'{path}, line {reader.line_num}: {error}.') from None
    return rows


def _json_lines(text: str, path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split('\n'), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f'{path}, line {number}, column {error.colno}: no JSON ({error.msg}).') from None
        if not isinstance(value, dict):
            raise UserError(f'{path}, line {number}: expected an object {{...}}, found {type(value).__name__}.')
        rows.append(
            Row({k: v if isinstance(v, str) else json.dumps(v) for k, v in value.items()}, f'{path}, line {number}')
        )
    return rows
