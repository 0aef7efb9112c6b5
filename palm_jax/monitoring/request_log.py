"""What a server was asked and answered, and the feedback to it, in an SQLite database.

Nothing is kept unless the server is started with a file for it. Texts pass a redaction hook before they are written,
and rows are deleted once they are older than the retention.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palm_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)
_DAY = 86_400.0  # seconds
_HOUR = 3600.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
  id TEXT NOT NULL, number INTEGER NOT NULL, time REAL NOT NULL, model TEXT NOT NULL, checkpoint TEXT NOT NULL,
  endpoint TEXT NOT NULL, input TEXT NOT NULL, answer TEXT NOT NULL, PRIMARY KEY (id, number)
);
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (time);
CREATE TABLE IF NOT EXISTS feedback (
  id TEXT NOT NULL, number INTEGER NOT NULL, time REAL NOT NULL, label TEXT, rating TEXT, comment TEXT
);
CREATE INDEX IF NOT EXISTS feedback_by_request ON feedback (id, number);
"""


@dataclasses.dataclass(frozen=True)
class Kept:
    """An input that a server was asked, its answer and the last feedback to it.

    Attributes:
      id: id of the request.
      number: number of the input in the request.
      time: when it was asked, in seconds since the epoch.
      model: name of the model.
      checkpoint: checkpoint that answered.
      endpoint: path that was asked.
      input: text, pair of texts, or messages.
      answer: fields of the answer, as JSON.
      label: right label or answer by a user; None if there was none.
      rating: `up` or `down`; None if there was none.
    """

    id: str
    number: int
    time: float
    model: str
    checkpoint: str
    endpoint: str
    input: Any
    answer: Any
    label: Any = None
    rating: str | None = None


class RequestLog:
    """An SQLite database of requests, answers and feedback, which threads share.

    Args:
      path: file, which is created if it does not exist.
      redact: function that every text passes before it is written; None keeps texts as they are.
      keep_days: days after which rows are deleted; None keeps them.

    Raises:
      UserError: the file cannot be opened, or holds something else.
    """

    def __init__(
        self, path: str | Path, redact: Callable[[str], str] | None = None, keep_days: float | None = None
    ) -> None:
        self._path, self._redact, self._keep_days = Path(path), redact, keep_days
        self._lock = threading.Lock()
        self._deleted_at = 0.0
        try:
            self._database = sqlite3.connect(self._path, check_same_thread=False, timeout=30)
            self._database.execute('PRAGMA journal_mode=WAL')
            with self._database:
                self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise UserError(f'{self._path} cannot keep requests: {error}.') from None
        self.delete_old()

    def add(
        self,
        identifier: str,
        model: str,
        checkpoint: str,
        endpoint: str,
        inputs: Sequence[Any],
        answers: Sequence[Any],
    ) -> None:
        """Keep a request. A failure to write is logged: the client has its answer.

        Args:
          identifier: id of the request.
          model: name of the model.
          checkpoint: checkpoint that answered.
          endpoint: path that was asked.
          inputs: inputs of the request.
          answers: fields of the answer to each input.
        """
        now = time.time()
        try:
            rows = [
                (identifier, i, now, model, checkpoint, endpoint, self._json(given), self._json(answer))
                for i, (given, answer) in enumerate(zip(inputs, answers, strict=True))
            ]
            with self._lock, self._database:
                self._database.executemany('INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?)', rows)
        except Exception:  # a redaction hook is the user's code
            _LOGGER.exception('a request could not be kept in %s', self._path)
        if now - self._deleted_at > _HOUR:
            self.delete_old()

    def model_of(self, identifier: str, number: int) -> str | None:
        """Return the name of the model that answered an input of a request; None if there is no such request."""
        with self._lock:
            row = self._database.execute(
                'SELECT model FROM requests WHERE id = ? AND number = ?', (identifier, number)
            ).fetchone()
        return None if row is None else row[0]

    def add_feedback(
        self, identifier: str, number: int, label: Any = None, rating: str | None = None, comment: str | None = None
    ) -> bool:
        """Keep feedback to an answer; return whether there is such a request.

        Args:
          identifier: id of the request.
          number: number of the input in the request.
          label: right label or answer.
          rating: `up` or `down`.
          comment: text of the user.
        """
        with self._lock, self._database:
            known = self._database.execute(
                'SELECT 1 FROM requests WHERE id = ? AND number = ?', (identifier, number)
            ).fetchone()
            if known is None:
                return False
            self._database.execute(
                'INSERT INTO feedback VALUES (?, ?, ?, ?, ?, ?)',
                (
                    identifier, number, time.time(), None if label is None else self._json(label), rating,
                    None if comment is None else self._hidden(comment),
                ),
            )  # fmt: skip
        return True

    def delete_old(self) -> int:
        """Delete what is older than the retention; return the number of requests deleted."""
        self._deleted_at = time.time()
        if self._keep_days is None:
            return 0
        limit = self._deleted_at - self._keep_days * _DAY
        with self._lock, self._database:
            old = self._database.execute('DELETE FROM requests WHERE time < ?', (limit,)).rowcount
            self._database.execute('DELETE FROM feedback WHERE id NOT IN (SELECT id FROM requests)')
        return old

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def _json(self, value: Any) -> str:
        return json.dumps(self._hidden(value), ensure_ascii=False)

    def _hidden(self, value: Any) -> Any:
        """Return a value with all of its texts redacted."""
        if self._redact is None:
            return value
        if isinstance(value, str):
            return self._redact(value)
        if isinstance(value, list | tuple):
            return [self._hidden(item) for item in value]
        return {k: self._hidden(v) for k, v in value.items()} if isinstance(value, dict) else value


def read(path: str | Path, model: str | None = None, since: float = 0.0, with_label: bool = False) -> Iterator[Kept]:
    """Yield what a server has kept, in order of time.

    Args:
      path: database that `RequestLog` writes.
      model: name of the model; None is all.
      since: time of the first request, in seconds since the epoch.
      with_label: whether to yield only what a user has given the right label or answer of.

    Raises:
      UserError: there is no such file, or it is not such a database.
    """
    if not Path(path).is_file():
        raise UserError(f'{path} does not exist: name the file that palm-jax serve --keep=FILE wrote.')
    query = (
        'SELECT r.*, (SELECT label FROM feedback f WHERE f.id = r.id AND f.number = r.number AND label IS NOT NULL '
        'ORDER BY f.rowid DESC LIMIT 1) AS label, (SELECT rating FROM feedback f WHERE f.id = r.id AND '
        'f.number = r.number AND rating IS NOT NULL ORDER BY f.rowid DESC LIMIT 1) FROM requests r '
        'WHERE r.time >= ? AND (? IS NULL OR r.model = ?) ORDER BY r.time, r.id, r.number'
    )
    with contextlib.closing(sqlite3.connect(f'{Path(path).absolute().as_uri()}?mode=ro', uri=True)) as database:
        try:
            for row in database.execute(query, (since, model, model)):
                *fields, given, answer, label, rating = row
                if label is not None or not with_label:
                    texts = dict(zip(('input', 'answer', 'label'), map(_parsed, (given, answer, label)), strict=True))
                    names = ('id', 'number', 'time', 'model', 'checkpoint', 'endpoint')
                    yield Kept(**dict(zip(names, fields, strict=True)), **texts, rating=rating)
        except (sqlite3.DatabaseError, ValueError) as error:  # a ValueError of texts that are not JSON
            raise UserError(f'{path} does not hold requests of a server: {error}.') from None


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)
