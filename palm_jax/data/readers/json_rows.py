"""Rows of JSON and JSON lines."""

from __future__ import annotations

import fnmatch
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from palm_jax.characters import check_characters
from palm_jax.data.readers import squad
from palm_jax.data.readers.columns import columns_flag, kind_of
from palm_jax.data.readers.files import File, check_text
from palm_jax.errors import UserError, closest
from palm_jax.wording import counted

_DEEPEST = 100  # lists and objects inside one another
_MOST_DIGITS = 4000  # below the limit of Python's own conversion


class _LongNumber:
    """A number with too many digits, reported with the row that holds it."""


def parse(text: str, location: str) -> Any:
    """Return the value of a JSON text, checked by `check_value`.

    Raises:
      UserError: if it is not JSON, or cannot be used.
    """
    return check_value(_load(text, location), location)


def check_value(value: Any, location: str) -> Any:
    """Return a value of JSON or Parquet if all of it is text and numbers that can be read and written again.

    Raises:
      UserError: if a text holds what no file can (see `check_characters`), a number is too long, or lists and objects
        are nested too deeply.
    """
    pending: list[tuple[Any, int]] = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, str):
            check_characters(item, location)
        elif isinstance(item, _LongNumber):
            raise UserError(f'{location}: a number has more than {_MOST_DIGITS:,} digits.')
        elif isinstance(item, list | dict):
            if depth == _DEEPEST:
                raise _too_deep(location)
            pending += ((inner, depth + 1) for inner in (item if isinstance(item, list) else (*item, *item.values())))
    return value


def lines(file: File) -> Iterator[tuple[str, str]]:
    """Yield (text, location) of the lines that are not blank."""
    for number, line in file.lines():
        if line.strip():
            yield line.rstrip(), f'{file.name}, line {number}'


def line_value(line: tuple[str, str], file: File) -> tuple[Any, str]:
    """Return the value of a line and its location."""
    text, location = line
    return parse(check_text(text, location, file), location), location


def holds_lines(file: File) -> bool:
    """Return whether a file has a JSON value per line, by its first lines, whatever its suffix says."""
    found = [text for text, _ in itertools.islice(lines(file), 2)]
    if file.suffix == '.json' and len(found) < 2:
        return False
    if file.suffix == '.jsonl' and not (found and found[0].startswith('[')):
        return True
    try:
        first = json.loads(found[0])
    except (ValueError, RecursionError):
        return False  # the value goes on in other lines
    return file.suffix == '.json' or not (first and all(isinstance(item, dict) for item in first))


def items(file: File, part: str | None) -> list[tuple[Any, str]]:
    """Return (value, location) of the rows of a JSON file: a list, a list inside an object, or SQuAD.

    Args:
      file: file.
      part: name of a list in an object, or a glob of names.
    """
    name = file.name
    value = _load(file.text(), name)
    if isinstance(value, dict) and part is None and squad.is_nested(value):
        return squad.questions(value, name)
    if part is not None:
        lists = value if isinstance(value, dict) else {}
        names = [key for key in lists if fnmatch.fnmatchcase(key, part)]
        if not names:
            raise UserError(f'{name}: no list called {part!r}.{closest(part, lists)} Its lists: {", ".join(lists)}.')
        wrong = next((key for key in names if not isinstance(lists[key], list)), None)
        if wrong is not None:
            raise UserError(f'{name}: {wrong!r} is not a list of rows, but {kind_of(lists[wrong])}.')
        value = [item for key in names for item in lists[key]]
    if isinstance(value, dict) and not any(isinstance(item, list | dict) for item in value.values()) and value:
        value = [value]  # JSON lines of a single line
    if not isinstance(value, list | dict):
        raise UserError(f'{name}: expected a list of rows [...], found {kind_of(value)}.')
    if isinstance(value, dict):
        lists = {key: item for key, item in value.items() if _may_be_rows(item)}
        first = next((key for key, item in lists.items() if item), next(iter(lists), None))
        if first is None:
            raise UserError(
                f'{name}: expected a list of rows, found an object without one. Write an object per row; pandas: '
                "to_json(..., orient='records', lines=True) in a .jsonl file."
            )
        advice = f'Name a list in it: {name}#{first}'
        if lists[first] and all(isinstance(row, list) for row in lists[first]):
            count = len(lists[first][0])
            named = next((item for item in value.values() if _names(item, count)), None)
            advice += f', with --gin.COLUMNS="{named or [f"column_{i}" for i in range(1, count + 1)]}"'
        raise UserError(f'{name}: expected a list of rows, found an object. {advice}')
    return [(item, f'{name}, item {number}') for number, item in enumerate(value, 1)]


def with_names(
    value: Any, location: str, names: Sequence[str] | None, may_be_list: bool = False, is_ordered: bool = False
) -> dict[str, Any]:
    """Return a row as an object whose values have the names of COLUMNS, or names of their own.

    Args:
      value: object or list.
      location: file and row.
      names: COLUMNS; None numbers the values of a list.
      may_be_list: whether a row may be a list without `names`.
      is_ordered: whether the values of an object are in the order of the table's columns, so that `names` may rename
        them.

    Raises:
      UserError: if it is neither, or the names do not fit.
    """
    if isinstance(value, dict) and is_ordered and names is not None and not set(names) <= set(value):
        value = list(value.values())
    if isinstance(value, list) and (may_be_list or names is not None):
        names = names or [str(i) for i in range(len(value))]
        if len(names) != len(value):
            raise UserError(
                f'{location}: {counted(len(value), "value")}, but COLUMNS has {counted(len(names), "name")}.'
            )
        return dict(zip(names, value, strict=True))
    if not isinstance(value, dict):
        raise UserError(f'{location}: expected an object {{...}}, found {kind_of(value)}.{_advice(value)}')
    unknown = [name for name in names or () if name not in value]
    if unknown:
        raise UserError(
            f'{location}: COLUMNS names {unknown[0]!r}, but this row has names of its own: {", ".join(value)}. '
            'Leave COLUMNS out: --gin.COLUMNS=None'
        )
    return value


def _advice(value: Any) -> str:
    """Return how a list is read as a row, with the longest of its texts as the text."""
    if not isinstance(value, list) or not value or any(isinstance(item, list | dict) for item in value):
        return ''
    return f' Name its values in their order: {columns_flag([str(item) for item in value])}'


def _may_be_rows(value: Any) -> bool:
    """Return whether a value is a list of objects or of lists; it may be empty."""
    return isinstance(value, list) and all(isinstance(item, dict | list) for item in value[:1])


def _names(value: Any, count: int) -> bool:
    """Return whether a value is a list with the names of columns."""
    return isinstance(value, list) and len(value) == count and all(isinstance(item, str) for item in value)


def _load(text: str, location: str) -> Any:
    try:
        return json.loads(text, parse_int=_int, parse_float=_float, parse_constant=_constant)
    except json.JSONDecodeError as error:
        line = f', line {error.lineno}' if 'line' not in location else ''
        raise UserError(f'{location}{line}, column {error.colno}: invalid JSON ({error.msg}).') from None
    except RecursionError:
        raise _too_deep(location) from None


def _int(digits: str) -> int | _LongNumber:
    return int(digits) if len(digits) <= _MOST_DIGITS else _LongNumber()


def _float(digits: str) -> float | str:
    value = float(digits)
    return value if math.isfinite(value) else digits


def _constant(name: str) -> str | None:
    """Return null for NaN, as which pandas writes a missing value; infinities remain as text."""
    return None if name == 'NaN' else name


def _too_deep(location: str) -> UserError:
    return UserError(f'{location}: lists and objects are nested more than {_DEEPEST} levels deep.')
