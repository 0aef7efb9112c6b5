"""Handling of unusable rows: the first one is an error, or all of them are skipped and listed in a file."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from palm_jax import job
from palm_jax.errors import UserError

Item = TypeVar('Item')
Parsed = TypeVar('Parsed')
_LOGGER = logging.getLogger(__name__)
_ADVICE = 'To skip and list such rows: --gin.BAD_ROWS=bad_rows.txt'


class BadRows:
    """Unusable rows: with a file they are skipped, counted and written to it, each one once.

    Args:
      path: file to write the messages to, overwritten by every process, but of those of a job, which all read the same
        rows, by the first alone; None makes the first bad row an error.
    """

    def __init__(self, path: str | None = None):
        self._path, self._known, self._num_reported = path, dict[str, None](), 0

    def handle(self, error: UserError) -> None:
        """Raise the error with what skips such rows, or record it in the file."""
        if self._path is None:
            if 'BAD_ROWS' in str(error):
                raise error
            raise UserError(f'{error}\n{_ADVICE}') from error
        message = ' '.join(str(error).split())
        if message not in self._known:
            mode = 'a' if self._known else 'w'
            self._known[message] = None
            if job.process_index() in (None, 0):
                with Path(self._path).expanduser().open(mode, encoding='utf-8') as file:
                    file.write(message + '\n')

    def keep(self, items: Iterable[Item], parse: Callable[[Item], Parsed]) -> Iterator[Parsed]:
        """Yield `parse(item)` for every item, without the items that it raises a UserError for."""
        for item in items:
            try:
                parsed = parse(item)
            except UserError as error:
                self.handle(error)
            else:
                yield parsed

    def why_none_is_left(self) -> str:
        """Return the end of a message that no row is usable: the first error, if there was one."""
        if not self._known:
            return ''
        first = next(iter(self._known)).rstrip('.')
        return f' that can be used; {len(self._known):,} are listed in {self._path}. The first: {first}'

    def report(self) -> None:
        """Log the number of skipped rows if it has grown since the last call."""
        if len(self._known) > self._num_reported:
            self._num_reported = len(self._known)
            first = next(iter(self._known))
            _LOGGER.warning(
                'skipped %s bad row(s), listed with their locations in %s. The first: %s',
                f'{self._num_reported:,}',
                self._path,
                first,
            )


class RefusedRows(BadRows):
    """The first unusable row is an error as it is, where no binding skips such rows."""

    def handle(self, error: UserError) -> None:
        """Raise the error."""
        raise error


@functools.cache
def shared_bad_rows(path: str | None) -> BadRows:
    """Return the bad rows of a file, shared by all readers that write to it."""
    return BadRows(path)


def bad_rows_of(binding: str, path: str | None) -> BadRows:
    """Return what handles bad rows of files: those that a flag names are errors, others see `shared_bad_rows`."""
    return RefusedRows() if binding.startswith('--') else shared_bad_rows(path)
