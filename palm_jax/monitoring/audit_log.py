"""An append-only log of what was refused, filtered or recorded, in which a change is found.

Every line is a JSON object with the SHA-256 of the line before it, so that a line that was changed, removed or inserted
breaks the chain (cutting lines off at the end is found only by whoever knows the last hash). Texts are not in it: their
SHA-256 tells whether a text at hand is the one that a line is about.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from palm_jax import locks
from palm_jax.errors import UserError

_ADVICE = 'Keep the file as it is, and name another.'
_START = '0' * 64  # the hash before the first line


class AuditLog:
    """A log to which this process alone appends, until it is closed.

    Args:
      path: the file; lines are appended to those that it has.

    Raises:
      UserError: the file cannot be written, is not such a log, was changed, or another process appends to it.
    """

    def __init__(self, path: Path):
        self._lock, self._stack = threading.Lock(), contextlib.ExitStack()
        lock = path.with_name(f'{path.name}.lock')
        self._stack.enter_context(locks.hold(lock, str(path), 'name another file.'))
        try:
            self._previous = _START
            for line, _ in _lines(path):
                self._previous = _hash(line)
            self._file = self._stack.enter_context(path.open('ab'))
        except OSError as error:
            self._stack.close()
            raise UserError(f'{path} cannot be written: {error.strerror or error}.') from None
        except UserError:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def add(self, text: str, **fields: Any) -> None:
        """Append a line, and wait until it is on the disk.

        Args:
          text: text that the line is about, which is not written.
          **fields: values of JSON.
        """
        with self._lock:
            content = {'time': round(time.time(), 3), **fields, 'sha256': digest(text), 'previous': self._previous}
            line = json.dumps(content, ensure_ascii=False).encode()
            self._file.write(line + b'\n')
            self._file.flush()
            os.fsync(self._file.fileno())
            self._previous = _hash(line)

    def close(self) -> None:
        """Close the file, and let other processes append to it."""
        with self._lock:
            self._stack.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log.

    Raises:
      UserError: a line was changed, or one before it was removed or inserted.
    """
    for _, content in _lines(path):
        yield content


def digest(text: str) -> str:
    """Return the SHA-256 by which a log names a text."""
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()


def last_hash(path: Path) -> str:
    """Return the hash of the last line, which tells whether lines were cut off later; 64 zeros without lines.

    Raises:
      UserError: see `read`.
    """
    found = _START
    for line, _ in _lines(path):
        found = _hash(line)
    return found


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield every line with its content, and check the chain."""
    previous = _START
    if not path.exists():
        return
    with path.open('rb') as file:
        for number, ended in enumerate(file, 1):
            line = ended.rstrip(b'\n')
            try:
                content = json.loads(line)
                is_next = content['previous'] == previous
            except (ValueError, KeyError, TypeError):
                raise UserError(f'{path}, line {number} is not a line of an audit log, or was cut. {_ADVICE}') from None
            if not is_next:
                raise UserError(f'{path}, line {number}: a line before it was changed, removed or inserted. {_ADVICE}')
            yield line, content
            previous = _hash(line)


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
