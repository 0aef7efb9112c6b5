"""The value of a column, by what the column is for: a text, a label, labels or a number.

Cells of CSV and TSV are texts. JSON and Parquet have numbers, lists and objects as well, and a value that is not what
the column is for is an error that says where it is.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import re
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError, closest

Labels: TypeAlias = str | tuple[str, ...]

_NAMES = {
    str: 'a text',
    bool: 'true or false',
    int: 'a number',
    float: 'a number',
    list: 'a list',
    dict: 'an object',
    type(None): 'null',
}
_NUMBER_OR_DATE = re.compile(r'[-+]?[0-9]+([.,][0-9]+)?(e[-+]?[0-9]+)?|[0-9]{4}-[0-9]{2}-[0-9]{2}.*', re.IGNORECASE)
_SENTENCE = re.compile(r'\S+\s+\S+\s+.*[.!?…]["”’]?|.*[。！？]["”’]?', re.DOTALL)
_BETWEEN_TEXTS = re.compile(r'(?<=[\'"])\s+(?=[\'"])')
_LONGEST_NAME, _MOST_WORDS = 80, 8
_SHOWN_COLUMNS = 40
_MULTILABEL = 'For several labels per text: --gin_file=gin/heads/multilabel.gin'


def kind_of(value: Any) -> str:
    """Return what a value is, for messages: `a list`."""
    return _NAMES.get(type(value), type(value).__name__)


def find(
    row: Row, column: str, binding: str | None, is_doubtful: bool = False, wanted: Sequence[str] = ('text', 'label')
) -> Any:
    """Return the value of a column that a row must have, or of a line of text its text.

    Args:
      row: row.
      column: name of the column.
      binding: macro or flag (`--text_column`) that names the column; None, or the flag that names the file, where
        neither does.
      is_doubtful: whether the names of the columns look like data, see `looks_like_data`.
      wanted: all columns that a task asks for, for advice.

    Raises:
      UserError: if there is no such column.
    """
    if row.is_line and len(row.values) == 1:
        return next(iter(row.values.values()))
    if column in row.values:
        return row.values[column]
    is_macro = binding is not None and not binding.startswith('--')
    advice = f'Name yours with --gin.{binding}=...' if is_macro else 'Rename yours.'
    if binding is not None and binding.endswith('_column'):
        advice = f'Name yours with {binding}=...'
    if is_macro and (is_doubtful or looks_like_data(list(row.values))):
        flag = columns_flag(list(row.values), wanted)
        advice = f'These look like data: if the file has no header, name its columns: {flag}'
    raise UserError(
        f'{row.location}: no column {column!r}.{closest(column, row.values)} Columns: {_listed(row.values)}. {advice}'
    )


def text(row: Row, column: str, binding: str | None) -> str:
    """Return the text in a column; see `find`.

    Raises:
      UserError: if there is none, or another kind of value.
    """
    value = find(row, column, binding)
    if value is None or (isinstance(value, str) and not value.strip()):
        what = 'the line' if row.is_line else f'the column {column!r}'
        raise UserError(f'{row.location}: {what} is empty.')
    if not isinstance(value, str):
        raise _wrong(row, column, value, 'a text')
    return value


def label(row: Row, column: str, binding: str) -> str:
    """Return the label in a column, which may be a number or true or false in the file; see `find`.

    Raises:
      UserError: if there is none, or several.
    """
    value = find(row, column, binding)
    if isinstance(value, list | dict):
        raise _wrong(row, column, value, 'one label', _MULTILABEL)
    found = as_text(value).strip()
    if not found:
        raise UserError(f'{row.location}: the column {column!r} is empty.')
    written = _written_list(found)
    if written and all(isinstance(item, str) for item in written):  # `[1]` may be a name
        raise _wrong(row, column, value, 'one label', _MULTILABEL)
    return found


def labels(row: Row, column: str, binding: str) -> Labels:
    """Return the labels in a column: a text as it is, or the texts of a list, also of one written in a cell.

    Raises:
      UserError: if the value is neither, or the list holds something else than texts and numbers.
    """
    value = find(row, column, binding)
    if isinstance(value, str):
        written = _written_list(value.strip())
        value = value if written is None else written
    if isinstance(value, dict):
        raise _wrong(row, column, value, 'labels')
    if not isinstance(value, list):
        return as_text(value).strip()
    for item in value:
        if item is None or isinstance(item, list | dict):
            raise _wrong(row, column, item, 'labels in its list')
    return tuple(as_text(item).strip() for item in value)


def number(row: Row, column: str, binding: str | None) -> str:
    """Return the number in a column as text, whose form is not checked here; see `find`.

    Raises:
      UserError: if the value is neither a number nor a text.
    """
    value = find(row, column, binding)
    if value is None or value == '':
        raise UserError(f'{row.location}: the column {column!r} is empty.')
    if isinstance(value, bool | list | dict):
        raise _wrong(row, column, value, 'a number')
    return as_text(value).strip()


def as_text(value: Any) -> str:
    """Return a text, or another value as JSON writes it; nothing for null."""
    if value is None:
        return ''
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def looks_like_data(names: Sequence[str], values: Sequence[Collection[str]] = ()) -> bool:
    """Return whether the names of columns look like a row of data: a file without a header.

    A number, a date, a sentence or a long text is hardly a name, nor is what the column holds in other rows.

    Args:
      names: names of the columns.
      values: values of each column in other rows.
    """
    if all(name == str(i) or name.startswith('Unnamed: ') for i, name in enumerate(names)):
        return False  # numbered columns
    return any(
        len(name) > _LONGEST_NAME
        or len(name.split()) > _MOST_WORDS
        or _NUMBER_OR_DATE.fullmatch(name)
        or _SENTENCE.fullmatch(name)
        for name in names
    ) or any(name.strip() and name in others for name, others in zip(names, values, strict=False))


def columns_flag(cells: Sequence[str], wanted: Sequence[str] = ('text', 'label')) -> str:
    """Return the flag that names the columns of a file without a header.

    Args:
      cells: first line of the file.
      wanted: names that a task asks for: the first is likely to be that of the longest cell, the next ones of the
        shortest.
    """
    names = [f'column_{i}' for i in range(1, len(cells) + 1)]
    by_length = sorted(range(len(cells)), key=lambda i: (len(cells[i]), i))
    for name, i in zip(wanted, (*by_length[-1:], *by_length[:-1]), strict=False):
        names[i] = name
    return f'--gin.COLUMNS="{names}"'


def _wrong(row: Row, column: str, value: Any, wanted: str, advice: str = '') -> UserError:
    found = _shortened(as_text(value))
    what = f'the column {column!r} holds {kind_of(value)} ({found}); it must hold {wanted}.'
    return UserError(f'{row.location}: {what} {advice}'.rstrip())


def _written_list(cell: str) -> list[Any] | None:
    """Return the list of texts and numbers that a cell writes; None if it is none.

    It is written as JSON or as Python does, also as a tuple or a set, or as NumPy does: `['a' 'b']`.
    """
    if (cell[:1], cell[-1:]) not in (('[', ']'), ('(', ')'), ('{', '}')):
        return None
    written = cell if ',' in cell else _BETWEEN_TEXTS.sub(', ', cell)
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = read(written)
            found = sorted(value, key=str) if isinstance(value, set) else value
            is_list = isinstance(found, list | tuple) and all(isinstance(item, str | int | float) for item in found)
            return list(found) if is_list else None
    return None


def _listed(names: Collection[str]) -> str:
    shown = ', '.join(map(_shortened, itertools.islice(names, _SHOWN_COLUMNS)))
    return shown if len(names) <= _SHOWN_COLUMNS else f'{shown} ... ({len(names):,} in all)'


def _shortened(value: str, length: int = 60) -> str:
    return value if len(value) <= length else value[:length] + '…'
