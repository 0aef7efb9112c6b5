"""Locks between processes: one program at a time writes to a run's directory, or to a file of predictions.

A lock is a file that names its holder. Where the file system has `flock`, the operating system releases the lock when
its holder ends, however it ends. Elsewhere (`fcntl` is missing, or the file system refuses `flock`) the file itself is
the lock, and it counts for as long as the process that it names lives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from palm_jax.errors import UserError
from palm_jax.wording import shell_command

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

_LOGGER = logging.getLogger(__name__)
_PAUSE = 0.5  # seconds until a lock is tried again
_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)
_WITHOUT_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class InUseError(UserError):
    """Another process holds a lock."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes:
      pid: its process id.
      host: name of its machine.
      command: its command line, as it can be pasted into a shell.
      since: when it took the lock, local time.
    """

    pid: int
    host: str
    command: str
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        """The running process."""
        command = shell_command([Path(sys.argv[0]).name, *sys.argv[1:]])
        return cls(os.getpid(), socket.gethostname(), command, time.strftime('%Y-%m-%d %H:%M:%S'))

    @classmethod
    def read(cls, file: int) -> Holder | None:
        """The holder that an open lock file names; None while it is being written, or if it is not a lock file."""
        try:
            return cls(**json.loads(os.pread(file, 1 << 16, 0)))
        except (ValueError, TypeError):
            return None

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether the process exists; one on another machine, which cannot be asked, counts as existing."""
        if not self.is_here:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's process
            return True
        return True

    def __str__(self) -> str:
        where = '' if self.is_here else f' on {self.host}'
        return f'process {self.pid}{where} since {self.since}:\n  {self.command}'


@contextlib.contextmanager
def hold(path: Path, what: str, alternative: str) -> Iterator[None]:
    """Hold a lock while the body runs; the lock's file is removed afterwards.

    Args:
      path: the lock's file, in a folder that exists.
      what: what the lock protects, for messages.
      alternative: last sentence of the message, if another process holds the lock: what to do besides waiting.

    Raises:
      UserError: another process holds the lock, or the file cannot be written.
    """
    try:
        file = _acquire(path, what, alternative)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror or error}.') from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before the lock is released: nobody else can hold a lock on this file
        os.close(file)


@contextlib.contextmanager
def hold_folder(folder: Path, path: Path, what: str, alternative: str) -> Iterator[None]:
    """Make a folder and hold its lock while the body runs; see `hold`.

    Folders that are made here and are empty afterwards are removed: of what was refused nothing is left.

    Args:
      folder: the folder, which may exist.
      path: the lock's file, in the folder.
      what: see `hold`.
      alternative: see `hold`.

    Raises:
      UserError: another process holds the lock, or the folder cannot be written.
    """
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{what} cannot be written: {error.strerror or error}.') from None
    try:
        with hold(path, what, alternative):
            yield
    finally:
        with contextlib.suppress(OSError):  # one that is not empty
            for each in new:
                each.rmdir()


@contextlib.contextmanager
def wait_for(path: Path, what: str) -> Iterator[None]:
    """Hold a lock while the body runs, after whoever holds it now; see `hold`.

    Args:
      path: the lock's file; its folder is made.
      what: what the lock protects, for the log.

    Raises:
      UserError: the file cannot be written.
    """
    is_said = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(hold(path, what, 'stop it.'))
                break
            except InUseError as error:
                if not is_said:
                    _LOGGER.info('%s\nThis process waits.', error)
                is_said = True
                time.sleep(_PAUSE)
        yield


def _acquire(path: Path, what: str, alternative: str) -> int:
    """Return the open file of a lock that this process holds now."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            has_lock = _flock(file)
            if has_lock is False or (has_lock is None and _names_a_living_process(file)):
                # Nobody removes the file of a process that was killed on another machine, if that has no `flock`.
                by_hand = f'If it has ended already, remove {path}.\n' if has_lock is None else ''
                raise InUseError(
                    f'{what} is in use by {_holder(file)}\n{by_hand}Wait until it has ended, or {alternative}'
                )
            if _is_at(file, path):
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(dataclasses.asdict(Holder.this_process())).encode(), 0)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its holder has removed it between `open` and `flock`


def _flock(file: int) -> bool | None:
    """Lock an open file; False if another process has done so, None where there are no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD_BY_ANOTHER:
            return False
        if error.errno in _WITHOUT_FLOCK:
            return None
        raise
    return True


def _names_a_living_process(file: int) -> bool:
    holder = Holder.read(file)
    return holder is not None and holder.is_alive


def _holder(file: int) -> str:
    """Describe the holder, who writes its name just after it has taken the lock."""
    for _ in range(20):
        if holder := Holder.read(file):
            return str(holder)
        time.sleep(0.05)
    return 'another process.'


def _is_at(file: int, path: Path) -> bool:
    """Return whether a path still names an open file."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(file)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
