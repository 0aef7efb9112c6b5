"""Progress bars: tqdm's, or none on a machine without it, which trains and measures all the same."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

try:
    from tqdm import tqdm
except ModuleNotFoundError:

    class tqdm:  # type: ignore[no-redef]
        """The part of tqdm's interface that the project uses; it shows nothing but messages."""

        disable = False

        def __init__(self, iterable: Iterable[Any] = (), *_: Any, initial: int = 0, **__: Any):
            self._iterable, self.n = iterable, initial

        def __iter__(self) -> Iterator[Any]:
            return iter(self._iterable)

        def __enter__(self) -> tqdm:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, n: int = 1) -> None:
            """Count items."""
            self.n += n

        def close(self) -> None:
            """Show nothing."""

        def refresh(self) -> None:
            """Show nothing."""

        def set_postfix(self, *_: Any, **__: Any) -> None:
            """Show nothing."""

        @staticmethod
        def write(message: str, file: Any = None, **_: Any) -> None:
            """Print a message."""
            print(message, file=file or sys.stdout)


__all__ = ['tqdm']
