"""Tables of text: CSV, TSV, JSON lines and JSON, read with the place of every mistake."""

from __future__ import annotations

import csv
import dataclasses
import fnmatch
import functools
import glob
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palm_jax.errors import UserError, closest

_DELIMITERS = {'.csv': ',', '.tsv': '\t', '.txt': '\t'}
_SUFFIXES = (*_DELIMITERS, '.jsonl', '.json')
UNANSWERABLE = 'unanswerable'  # the answer to a question of SQuAD 2 that has none


@dataclasses.dataclass(frozen=True)
class Row:
    """A row's values by column, and where it stands: `file, line 7`."""

    values: dict[str, str]
    place: str


@functools.cache
def read(
    pattern: str, columns: tuple[tuple[str, str], ...], binding: str, header: tuple[str, ...] | None = None
) -> tuple[Row, ...]:
    """The rows of a file, or of all files that a glob matches.

    Args:
      pattern: path or glob, UTF-8, of one of these:
        `.csv`, `.tsv`: a row a line, below a header; `.txt`: between tabs, without one;
        `.jsonl`: an object a line;
        `.json`: a list of objects or of lists; of an object that holds several lists,
        `file.json#name` (or a glob of names) takes those; SQuAD's questions become rows with
        `question`, `context`, `answer` and `answers`.
      columns: (binding, name) of the columns that every row must have.
      binding: names the pattern in messages.
      header: names of the columns where the file has none.

    Raises:
      UserError: with the file, the line, what was found and what was expected.
    """
    split = re.fullmatch(r'(.*\.json)#(.+)', pattern)
    files, part = (pattern, None) if split is None else split.groups()
    rows = [row for path in find(files, binding) for row in _rows(path, binding, header, part)]
    for row in rows:
        for name_binding, column in columns:
            if column not in row.values:
                raise UserError(
                    f'{row.place}: no column {column!r}.{closest(column, row.values)} '
                    f'There are: {", ".join(row.values)}. Name yours with --gin.{name_binding}=...'
                )
            if not row.values[column].strip():
                raise UserError(f'{row.place}: the column {column!r} is empty.')
    if not rows:
        raise UserError(f'{binding} = {pattern!r}: there is not one row.')
    return tuple(rows)


def find(pattern: str, binding: str) -> list[Path]:
    """The files that a path or a glob names, in order."""
    paths = sorted(Path(p) for p in glob.glob(str(Path(pattern).expanduser()), recursive=True) if Path(p).is_file())
    if not paths:
        raise UserError(f'{binding} = {pattern!r}: no such file, and as a glob it matches none (from {Path.cwd()}).')
    return paths


def read_text(path: Path) -> str:
    """A file's text, UTF-8 with or without a byte order mark."""
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
    return text


def _rows(path: Path, binding: str, header: Sequence[str] | None, part: str | None) -> list[Row]:
    if path.suffix not in _SUFFIXES:
        raise UserError(f'{binding} = {str(path)!r}: a table is one of {", ".join(_SUFFIXES)}, not {path.suffix!r}.')
    text = read_text(path)
    if path.suffix == '.jsonl':
        return _json_lines(text, path)
    if path.suffix == '.json':
        return _json(text, path, header, part)
    return _delimited(text, path, header)


def _delimited(text: str, path: Path, header: Sequence[str] | None) -> list[Row]:
    if path.suffix == '.txt' and header is None:
        raise UserError(f"{path}: a .txt table has no header; name its columns: --gin.COLUMNS=\"['input', 'target']\".")
    delimiter = _DELIMITERS[path.suffix]
    quoting = csv.QUOTE_NONE if path.suffix == '.txt' else csv.QUOTE_MINIMAL
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True, quoting=quoting)
    rows = []
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
        if line.strip():
            place = f'{path}, line {number}'
            rows.append(_row(_parse(line, place), place))
    return rows


def _json(text: str, path: Path, header: Sequence[str] | None, part: str | None) -> list[Row]:
    value = _parse(text, str(path))
    if isinstance(value, dict) and part is None and _is_squad(value):
        return _squad(value, path)
    if part is not None:
        lists = value if isinstance(value, dict) else {}
        names = [name for name in lists if fnmatch.fnmatchcase(name, part)]
        if not names:
            raise UserError(
                f'{path}: nothing in it is called {part!r}.{closest(part, lists)} There are: {", ".join(lists)}.'
            )
        value = [item for name in names for item in lists[name]]
    if isinstance(value, dict):
        raise UserError(f'{path}: an object, not a list. Name the part of it: {path}#{next(iter(value), "...")}')
    places = [f'{path}, item {number}' for number in range(1, len(value) + 1)]
    return [_row(_with_names(item, place, header), place) for item, place in zip(value, places, strict=True)]


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f', line {error.lineno}' if 'line' not in place else ''
        raise UserError(f'{place}{line}, column {error.colno}: no JSON ({error.msg}).') from None


def _with_names(value: Any, place: str, header: Sequence[str] | None) -> Any:
    """A list as an object with the header's names, else 0, 1, ...; anything else as it is."""
    if not isinstance(value, list):
        return value
    names = header or [str(i) for i in range(len(value))]
    if len(names) != len(value):
        raise UserError(f'{place}: {len(value)} values, but COLUMNS names {len(names)}.')
    return dict(zip(names, value, strict=True))


def _row(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f'{place}: expected an object {{...}}, found {type(value).__name__}.')
    return Row({k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in value.items()}, place)


def _is_squad(value: dict[str, Any]) -> bool:
    articles = value.get('data')
    return isinstance(articles, list) and all(isinstance(a, dict) and 'paragraphs' in a for a in articles)


def _squad(value: dict[str, Any], path: Path) -> list[Row]:
    rows = []
    for paragraph in (p for article in value['data'] for p in article['paragraphs']):
        for question in paragraph['qas']:
            answers = list(dict.fromkeys(a['text'] for a in question['answers'])) or [UNANSWERABLE]
            values = {'question': question['question'], 'context': paragraph['context'], 'answer': answers[0]}
            place = f'{path}, question {question.get("id", len(rows) + 1)}'
            rows.append(Row(values | {'answers': json.dumps(answers, ensure_ascii=False)}, place))
    return rows
