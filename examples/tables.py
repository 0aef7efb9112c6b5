"""Tables that the applications read and write."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from palm_jax.data.readers import columns
from palm_jax.data.readers import tables as readers
from palm_jax.data.readers.bad_rows import RefusedRows
from palm_jax.data.readers.files import glob_files
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a CSV file."""
    with path.open('w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows([header, *rows])


def read(path: str, flag: str, *names: str) -> list[tuple[Row, tuple[str, ...]]]:
    """Return the rows of the table that a flag names, each with the texts of some columns.

    Args:
      path: path or glob, see `palm_jax.data.readers.tables.read`; not of `.txt` files, whose columns have no names.
      flag: flag that names the table, for messages.
      names: names of the columns.

    Raises:
      UserError: a row cannot be read, lacks a column, or has nothing in it; or there are no rows.
    """
    found = []
    for file in glob_files(path, flag):
        if file.suffix == '.txt':
            raise UserError(f'{flag}={file.name} has no header; write a .csv file with {" and ".join(names)}.')
        for row in readers.rows(file, flag, bad=RefusedRows()):
            found.append((row, tuple(_text(row, name, flag) for name in names)))
    if not found:
        raise UserError(f'{flag}={path}: the file contains no rows.')
    return found


def _text(row: Row, name: str, flag: str) -> str:
    """Return the text in a column, which may be a number in the file."""
    value = columns.find(row, name, flag)
    return columns.as_text(value) if isinstance(value, int | float) else columns.text(row, name, flag)
