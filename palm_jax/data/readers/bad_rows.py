"""What becomes of rows that cannot be used: the first is an error, or all are set aside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from palm_jax.errors import UserError

Given, Made = TypeVar('Given'), TypeVar('Made')


class BadRows:
    """Met one at a time; with a file they are counted, skipped and written there, each once.

    Args:
      path: of the file, begun anew by every process; None: the first bad row ends the run.
    """

    def __init__(self, path: str | None = None):
        self._path, self._known, self._told = path, dict[str, None](), 0

    def handle(self, error: UserError) -> None:
        """Raises the error, or sets its row aside."""
        if self._path is None:
            raise error
        message = ' '.join(str(error).split())
        if message not in self._known:
            mode = 'a' if self._known else 'w'
            self._known[message] = None
            with Path(self._path).expanduser().open(mode) as file:
                file.write(message + '\n')

    def keep(self, items: Iterable[Given], make: Callable[[Given], Made]) -> Iterator[Made]:
        """What `make` makes of the items, without those of which it cannot."""
        for item in items:
            try:
                made = make(item)
            except UserError as error:
                self.handle(error)
            else:
                yield made

    def report(self) -> None:
        """Says how many there are, where they stand, if there are more than when it last said so."""
        if len(self._known) > self._told:
            self._told = len(self._known)
            first = next(iter(self._known))
            print(f'{self._told:,} bad row(s) are skipped; {self._path} has each with its place. The first: {first}')


@functools.cache
def shared_bad_rows(path: str | None) -> BadRows:
    """Those of one file, whoever meets them."""
    return BadRows(path)
