"""Rows of a table without those that rules refuse."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from palm_jax.errors import UserError, no_column
from palm_jax.monitoring.content_filter import ContentFilter

_ROWS = 128  # rows whose texts are scored together


class DataFilter:
    """Removes rows, and counts them.

    Args:
      rules: rules, all of which read data; every removed or recorded text is a line of their log.
      columns: columns whose texts are read; empty for all.
      source: name of the table, for the log.

    Attributes:
      kept: number of rows that passed.
      removed: number of removed rows by the rule that refused them.
    """

    def __init__(self, rules: ContentFilter, columns: Sequence[str] = (), source: str = ''):
        self._rules, self._columns, self._source = rules, tuple(columns), source
        self.kept, self.removed = 0, collections.Counter[str]()

    def passing(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Yield the rows that no rule refuses, in order; a row is refused with any of its texts.

        Args:
          rows: rows with `values` by column and a `location`, or the error of a row in its place.

        Raises:
          UserError: a row cannot be read, lacks a column, or a rule has failed.
        """
        for batch in _batched(rows):
            texts, owners = [], []
            for number, row in enumerate(batch):
                if isinstance(row, UserError):
                    raise row
                of_row = list(self._texts(row))
                texts += of_row
                owners += [number] * len(of_row)
            each = [{'location': batch[owner].location} for owner in owners]
            found = self._rules.refused(texts, 'data', each, source=self._source) if texts else []
            refused: dict[int, str] = {}
            for owner, rule in zip(owners, found, strict=True):
                if rule is not None:
                    refused.setdefault(owner, rule)
            self.removed.update(refused.values())
            for number, row in enumerate(batch):
                if number not in refused:
                    self.kept += 1
                    yield row

    def _texts(self, row: Any) -> Iterator[str]:
        for column in self._columns:
            if column not in row.values and not row.is_line:
                raise UserError(f'{row.location}: {no_column(column, row.values)}')
        for column, value in row.values.items():
            if not self._columns or column in self._columns or row.is_line:
                yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    """Yield all texts in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


def _batched(rows: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    remaining = iter(rows)
    while batch := tuple(itertools.islice(remaining, _ROWS)):
        yield batch
