"""Rows of tables with a line per row: comma-separated with quotation marks, or tab-separated without."""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence

from palm_jax.data.readers import encodings
from palm_jax.data.readers.columns import columns_flag, looks_like_data
from palm_jax.data.readers.files import LONGEST_LINE, File, check_text
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError
from palm_jax.wording import counted

DELIMITERS = {'.csv': ',', '.tsv': '\t', '.txt': '\t'}
_EXAMINED = 100  # rows that tell a header from data
_CARRIAGE_RETURN = (
    'there is a carriage return inside a line. If lines end in carriage returns only, convert the file: '
    "tr '\\r' '\\n' < old > new. If it is part of a text, enclose the text in quotation marks, with --gin.QUOTING=True"
)
_LOGGER = logging.getLogger(__name__)
csv.field_size_limit(LONGEST_LINE)  # a text may be longer than Python's 131,072 characters


@dataclasses.dataclass(frozen=True)
class Layout:
    """How tables are laid out where the file itself does not say.

    Attributes:
      columns: COLUMNS, names of the columns of a file without a header; None reads the header. A first line that
        consists of these names is a header all the same.
      quoting: QUOTING, whether a cell may be enclosed in quotation marks, which then are not part of it and in which
        delimiters and line breaks are text; None is True for `.csv` and False for `.tsv` and `.txt`.
      encoding: ENCODING, encoding of files that are not UTF-8, as Python names it: `cp1250`; None: all are UTF-8;
        `utf-8` where no macro can name it, so that messages do not advise to.
    """

    columns: tuple[str, ...] | None = None
    quoting: bool | None = None
    encoding: str | None = None

    @classmethod
    def of(cls, columns: Sequence[str] | None, quoting: bool | None, encoding: str | None = None) -> Layout:
        """Return the layout that bindings describe."""
        repeated = next((name for name in columns or () if list(columns or ()).count(name) > 1), None)
        if repeated is not None:
            raise UserError(f'COLUMNS names {repeated!r} twice.')
        return cls(None if columns is None else tuple(columns), quoting, encodings.check(encoding))


class _Unreadable(Exception):
    """A line that is not a row; the message says why."""


def rows(file: File, layout: Layout) -> Iterator[Callable[[], Row]]:
    """Yield a function for every row that returns it or raises what is wrong with it.

    Raises:
      UserError: if a `.txt` file has no names of columns, or the header is unusable.
    """
    check_has_names(file, layout)
    parser: _Parser | None = None
    for values, location in _cells(file, layout):
        if parser is None:
            if isinstance(values, _Unreadable):
                raise UserError(f'{location}: {values}')
            names, is_header = _names(values, location, file, layout)
            parser = _Parser(file, names, layout)
            if is_header:
                continue
        yield functools.partial(parser.parse, values, location)
    if parser is not None:
        parser.report()


def header_looks_like_data(file: File, layout: Layout) -> bool:
    """Return whether the names that a table's first line gives its columns look like a row of data."""
    if layout.columns is not None or file.suffix not in ('.csv', '.tsv'):
        return False
    lines = [v for v, _ in itertools.islice(_cells(file, layout), _EXAMINED) if not isinstance(v, _Unreadable)]
    if not lines:
        return False
    names, *others = lines
    return looks_like_data(names, [{line[i] for line in others if i < len(line)} for i in range(len(names))])


def check_has_names(file: File, layout: Layout, wanted: Sequence[str] = ()) -> None:
    """Raise UserError for a `.txt` table without COLUMNS; `wanted` are the columns that a task asks for."""
    if file.suffix == '.txt' and layout.columns is None:
        names = list(wanted) or ['first', 'second']
        raise UserError(
            f'{file.name}: a .txt table has no header; name its columns: --gin.COLUMNS="{names}" (in its order).'
        )


def warn_of_header(file: File, row: Row, wanted: Sequence[str]) -> None:
    """Log that the names of columns look like data; `wanted` are the columns that a task asks for."""
    names = ', '.join(name if len(name) < 40 else name[:40] + '…' for name in row.values)
    _warn(
        f'{file.name}: its first line was taken as the names of the columns ({names}), but looks like data. '
        f'If it is, name the columns: {columns_flag(list(row.values), wanted)}'
    )


@functools.cache
def _warn(message: str) -> None:
    """Log a warning, once however often the file is read."""
    _LOGGER.warning(message)


def _quoting(file: File, layout: Layout) -> bool:
    return file.suffix == '.csv' if layout.quoting is None else layout.quoting


def _cells(file: File, layout: Layout) -> Iterator[tuple[list[str] | _Unreadable, str]]:
    """Yield (cells, location) of every line that is not blank."""
    delimiter = DELIMITERS[file.suffix]
    if not _quoting(file, layout):
        for number, line in file.lines():
            cells = line.removesuffix('\n').removesuffix('\r')
            if '\r' in cells:
                yield _Unreadable(_CARRIAGE_RETURN), f'{file.name}, line {number}'
            elif cells:
                yield cells.split(delimiter), f'{file.name}, line {number}'
        return
    reader = csv.reader((line for _, line in file.lines()), delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            found: list[str] | _Unreadable = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            rest = f'; the row that begins here goes on to line {reader.line_num}' * (reader.line_num > first)
            found = _Unreadable(_explain(str(error), rest))
        if found:
            yield found, f'{file.name}, line {first}'


def _explain(error: str, rest: str) -> str:
    if error.startswith('new-line character'):
        return _CARRIAGE_RETURN
    return (
        f'{error}{rest}. Close the quotes around a text, and double those inside it: "a ""b"" c". If quotation '
        'marks are part of the texts: --gin.QUOTING=False'
    )


def _names(values: list[str], location: str, file: File, layout: Layout) -> tuple[list[str], bool]:
    """Return the names of the columns, empty for those at the end that have none, and whether the line has them."""
    cells = [check_text(name, location, file).strip() for name in values]
    if layout.columns is not None:
        is_header = set(cells) <= set(layout.columns)
        return (cells if is_header else list(layout.columns)), is_header
    named = max((i for i, name in enumerate(cells, 1) if name), default=0)
    names = [name or f'Unnamed: {i}' for i, name in enumerate(cells[:named])] + cells[named:]
    repeated = next((name for name in names[:named] if names.count(name) > 1), None)
    if repeated is not None:
        advice = ''
        if header_looks_like_data(file, layout):
            advice = f' It looks like data: if the file has no header, name its columns: {columns_flag(values)}'
        raise UserError(f'{location}: the header names the column {repeated!r} {names.count(repeated)} times.{advice}')
    delimiter, other = DELIMITERS[file.suffix], _other_delimiter(cells, file)
    if other is not None:
        raise UserError(
            f'{location}: the columns are separated by {other!r}, but those of a {file.suffix} file by '
            f'{delimiter!r}. Save it with {delimiter!r}, or name it .tsv if they are separated by tabs.'
        )
    return names, True


def _other_delimiter(cells: Sequence[str], file: File) -> str | None:
    """Return what may separate columns in a line that has a single cell."""
    if len(cells) != 1:
        return None
    return next((mark for mark in ';\t|,' if mark != DELIMITERS[file.suffix] and mark in cells[0]), None)


def _count_rows(file: File, layout: Layout) -> int | None:
    """Return the number of rows that a file has in a layout; None if a row cannot be read."""
    try:
        return sum(bool(parse()) for parse in rows(file, layout))
    except UserError:
        return None


class _Parser:
    """Turns the cells of a file into rows, and counts what it should say about them.

    Args:
      file: file.
      names: names of the columns; those at the end that are empty do not count.
      layout: layout.
    """

    def __init__(self, file: File, names: list[str], layout: Layout):
        self._file, self._layout, self._width = file, layout, len(names)
        self._names = [name for name in names if name]
        self._num_rows, self._num_ignored, self._num_quoted, self._num_doubled, self._num_opened = 0, 0, 0, 0, 0

    def parse(self, values: list[str] | _Unreadable, location: str) -> Row:
        """Return the row of the cells of a line.

        Raises:
          UserError: if they are not text, or do not fit the names.
        """
        if isinstance(values, _Unreadable):
            raise UserError(f'{location}: {values}')
        for value in values:
            check_text(value, location, self._file)
        self._num_rows += 1
        count = len(self._names)
        rest = [value for value in values[count:] if value.strip()]
        if len(values) < count or (rest and len(values) > self._width):
            raise UserError(f'{location}: {self._misfit(values)}')
        self._num_ignored += bool(rest)
        quoted = [value for value in values if len(value) > 1 and value[0] == value[-1] == '"']
        self._num_quoted += bool(quoted)
        self._num_opened += any(value.startswith('"') and value.count('"') % 2 == 1 for value in values)
        self._num_doubled += any('""' in value[1:-1] for value in quoted)
        return Row(dict(zip(self._names, values[:count], strict=True)), location)

    def report(self) -> None:
        """Log what the file holds that its rows do not show."""
        rows = f'of {self._num_rows:,} rows have'
        if self._num_ignored:
            _warn(
                f'{self._file.name}: {self._num_ignored:,} {rows} values in columns without a name, which are ignored; '
                'name them in the header if they are needed'
            )
        seems_quoted = self._num_quoted > self._num_rows / 2 or self._num_doubled
        if seems_quoted and not _quoting(self._file, self._layout):
            _warn(
                f'{self._file.name}: {self._num_quoted:,} {rows} texts in quotation marks, which are part of the text '
                'here; --gin.QUOTING=True removes them'
            )
        elif self._num_opened and not _quoting(self._file, self._layout):
            num_quoted = _count_rows(self._file, dataclasses.replace(self._layout, quoting=True))
            other = 'the file cannot be read with --gin.QUOTING=True'
            if num_quoted is not None:
                other = (
                    f'with --gin.QUOTING=True the file has {counted(num_quoted, "row")}, which is right if these texts '
                    'go on in the next line or column'
                )
            _warn(
                f'{self._file.name}: {self._num_opened:,} {rows} a text that begins with a quotation mark and does not '
                f'end with one, which is part of the text here; {other}'
            )

    def _misfit(self, values: Sequence[str]) -> str:
        count, other = len(values), _other_delimiter(values, self._file)
        delimiter, names = DELIMITERS[self._file.suffix], self._names
        if self._layout.columns is not None:
            start = f'{counted(count, "value")}, but COLUMNS names {counted(len(names), "column")}'
        else:
            start = f'{counted(count, "value")}, but the header has {counted(len(names), "column")}'
        if other is not None:
            advice = f'The columns seem to be separated by {other!r}, but those of this format by {delimiter!r}.'
        elif self._layout.columns is not None and self._num_rows <= 1:
            advice = 'Name all columns, in their order.'
        elif _quoting(self._file, self._layout):
            advice = f'Put quotes around texts that contain {delimiter!r}.'
        else:
            advice = f'If texts with {delimiter!r} or line breaks are in quotation marks: --gin.QUOTING=True'
        return f'{start} ({", ".join(names)}). {advice}'
