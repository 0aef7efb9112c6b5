"""Tables of text: CSV, TSV, JSON lines, JSON and Parquet; errors name the file and the row."""

from __future__ import annotations

import datetime
import decimal
import functools
import io
import math
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from palm_jax.data.readers import columns as columns_of
from palm_jax.data.readers import delimited, json_rows, squad
from palm_jax.data.readers.bad_rows import BadRows, bad_rows_of, shared_bad_rows
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.files import COMPRESSED, File, glob_files
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError

SUFFIXES = (*delimited.DELIMITERS, '.jsonl', '.json', '.parquet')


@functools.cache
def read(
    pattern: str,
    columns: tuple[tuple[str, str], ...],
    binding: str,
    layout: Layout = Layout(),
    bad_rows: str | None = None,
) -> tuple[Row, ...]:
    """Read the rows of a file, or of all files that a glob matches.

    Args:
      pattern: path, glob or URL of files, plain or compressed (`.gz`, `.zst`, ...), in one of these formats:
        `.csv`: comma-separated, with quotation marks; `.tsv`: tab-separated, without; both after a header;
        `.txt`: tab-separated, without a header; `.jsonl`: one object per line; `.parquet`;
        `.json`: a list of objects or of lists; `file.json#name` (or a glob of names) selects lists from an object
        that holds several; SQuAD questions become rows with `question`, `context`, `answer` and `answers`,
          and so do rows with `answers` as Hugging Face's datasets has them, in every format.
      columns: (macro or flag, name) of the columns that every row must have, with any value.
      binding: macro or flag that holds the pattern, for messages; with a flag no row is skipped.
      layout: names of columns of a file without a header, quotation marks, and the encoding.
      bad_rows: file that collects unusable rows, see `BadRows`; None makes the first of them an error.

    Raises:
      UserError: if a row is invalid (the message gives the file, the line, what was found and what was
        expected), or if there are no rows.
    """
    split = re.fullmatch(r'(.*\.json(?:\.\w+)?)#(.+)', pattern)
    files, part = (pattern, None) if split is None else split.groups()
    bad = bad_rows_of(binding, bad_rows)
    found = list[Row]()

    wanted = tuple(dict.fromkeys(name for _, name in columns))
    for file in glob_files(files, binding, layout.encoding):
        delimited.check_has_names(file, layout, wanted)
        is_doubtful = delimited.header_looks_like_data(file, layout)

        def check_columns(row: Row, is_doubtful: bool = is_doubtful) -> Row:
            row = squad.with_answer(row)
            for name_binding, column in columns:
                columns_of.find(row, column, name_binding, is_doubtful, wanted)
            return row

        of_file = list(bad.keep(rows(file, binding, layout, part, bad), check_columns))
        found += of_file
        if of_file and is_doubtful and not wanted:  # otherwise the names are those that the task asks for
            delimited.warn_of_header(file, of_file[0], wanted)
    bad.report()
    if not found:
        raise UserError(f'{binding} = {pattern!r}: the file contains no rows{bad.why_none_is_left()}.')
    return tuple(found)


def rows(
    file: File,
    binding: str,
    layout: Layout = Layout(),
    part: str | None = None,
    bad: BadRows = shared_bad_rows(None),
) -> Iterator[Row]:
    """Yield the rows of one file, one at a time where its format allows it; for the arguments see `read`."""
    if file.suffix not in SUFFIXES:
        raise UserError(
            f'{binding} = {file.name!r}: {file.suffix!r} is not a table format. Formats: {", ".join(SUFFIXES)} '
            f'(and compressed: {", ".join(COMPRESSED)}).'
        )
    if file.suffix in delimited.DELIMITERS:
        return bad.keep(delimited.rows(file, layout), lambda parse: parse())
    if file.suffix == '.parquet':
        return bad.keep(_parquet(file), functools.partial(_row, layout=layout, is_ordered=True))
    if json_rows.holds_lines(file):
        return bad.keep(json_rows.lines(file), lambda line: _row(json_rows.line_value(line, file), layout))
    return bad.keep(json_rows.items(file, part), functools.partial(_row, layout=layout, may_be_list=True))


def _row(item: tuple[Any, str], layout: Layout, may_be_list: bool = False, is_ordered: bool = False) -> Row:
    """Return the row of (value, location); see `json_rows.with_names` for the other arguments."""
    value, location = item
    if isinstance(value, UserError):
        raise value
    json_rows.check_value(value, location)
    return Row(json_rows.with_names(value, location, layout.columns, may_be_list, is_ordered), location)


def _parquet(file: File) -> Iterator[tuple[Any, str]]:
    """Yield (row, location), with an error in place of a row whose texts are not UTF-8."""
    from pyarrow import ArrowInvalid, parquet

    with file.open() as content:
        try:
            seekable = content if file.suffix == PurePath(file.name).suffix.lower() else io.BytesIO(content.read())
            batches = parquet.ParquetFile(seekable).iter_batches()
            for number, row in enumerate((row for batch in batches for row in _rows_of_batch(batch)), 1):
                location = f'{file.name}, row {number}'
                if row is None:
                    yield UserError(f'{location}: a text is not UTF-8.'), location
                else:
                    yield {name: _plain(value) for name, value in row.items()}, location
        except ArrowInvalid as error:
            raise UserError(f'{file.name}: not a valid Parquet file ({error}).') from None


def _rows_of_batch(batch: Any) -> Iterator[dict[str, Any] | None]:
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for i in range(batch.num_rows):
        try:
            (row,) = batch.slice(i, 1).to_pylist()
        except UnicodeDecodeError:
            row = None
        yield row


def _plain(value: Any) -> Any:
    """Return a value of Parquet as JSON has it."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):  # a map is a list of pairs
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):  # texts of some writers lack the annotation that they are texts
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {'bytes': len(value)}
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return str(value)
    return value
