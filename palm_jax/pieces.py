"""Pieces of work that the processes of a job divide through a folder that all of them see.

Every piece becomes a file. A process makes each piece that is neither there nor being made by another, which a lock
says (`locks`). Processes may therefore differ in speed, start late, or be killed: the lock of a process that has ended
is released, and the others make its piece. No process has to reach another, and none has to be there until the end.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from tqdm import tqdm

from palm_jax import locks
from palm_jax.errors import UserError

Make: TypeAlias = Callable[[Path], None]
_PAUSE = 0.5  # seconds between two looks at pieces that others make


def folder_of(result: Path) -> Path:
    """Return the folder of the pieces of a file or folder that is made of them."""
    return result.with_name(f'{result.name}.pieces')


def path_of(folder: Path, number: int) -> Path:
    """Return the path of a piece."""
    return folder / f'{number:08}'


def make_all(folder: Path, pieces: Callable[[], Iterable[Make]], is_done: Callable[[], bool], label: str) -> int:
    """Make all pieces, together with every other process that calls this with the same arguments.

    Args:
      folder: folder of the pieces, see `folder_of`.
      pieces: returns, in order and always the same, a function for each piece that writes it to a path. What it yields
        is consumed again if another process has ended before its piece was there.
      is_done: returns whether what is made of the pieces exists, so that they are no longer needed.
      label: name for the progress bar.

    Returns:
      The number of pieces; 0 if what is made of them exists.
    """
    with tqdm(desc=label, unit=' pieces') as progress:
        while not is_done():
            count = 0
            for number, make in enumerate(pieces()):
                if is_done():
                    return 0
                _make(path_of(folder, number), make, is_done)
                count = number + 1
                progress.update(count - progress.n)
            if _wait_for_others(folder, count):
                return count
    return 0


def remove(folder: Path) -> None:
    """Remove all pieces, once what is made of them exists."""
    shutil.rmtree(folder, ignore_errors=True)  # another process may still look at a lock


def _make(path: Path, make: Make, is_done: Callable[[], bool]) -> None:
    """Make a piece unless it exists or another process makes it."""
    if path.is_file():
        return
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_lock(path))
        except locks.InUseError:
            return
        except (UserError, OSError):
            if is_done():  # the folder has been removed in between
                return
            raise
        if not path.is_file():
            unfinished = path.with_suffix('.unfinished')
            make(unfinished)
            unfinished.replace(path)


def _wait_for_others(folder: Path, count: int) -> bool:
    """Return whether all pieces are there, once no missing one is being made."""
    while missing := [path for path in (path_of(folder, n) for n in range(count)) if not path.is_file()]:
        for path in missing:
            try:
                with _lock(path):
                    if path.is_file():
                        continue
            except locks.InUseError:
                continue
            except UserError:  # the folder has been removed
                return False
            return False
        time.sleep(_PAUSE)
    return True


def _lock(path: Path) -> contextlib.AbstractContextManager[None]:
    return locks.hold(path.with_suffix('.lock'), f'the piece {path}', 'remove its lock.')
