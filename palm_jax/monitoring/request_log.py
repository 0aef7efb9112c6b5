"""What a server was asked and answered, and the feedback to it, in a database: see `request_database`.

Nothing is kept unless the server is started with a place for it. Texts pass a redaction hook before they are written,
and rows are deleted once they are older than the retention.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palm_jax.errors import UserError, closest
from palm_jax.monitoring.request_database import Cursor, Database, connect

_LOGGER = logging.getLogger(__name__)
_DAY = 86_400.0  # seconds
_HOUR = 3600.0
_REQUEST_COLUMNS = 'id, number, time, model, checkpoint, endpoint, input, answer'
_FEEDBACK_COLUMNS = 'id, number, time, label, rating, comment'
_TABLES = (
    'CREATE TABLE IF NOT EXISTS requests (id TEXT NOT NULL, number INTEGER NOT NULL, time DOUBLE PRECISION NOT NULL, '
    'model TEXT NOT NULL, checkpoint TEXT NOT NULL, endpoint TEXT NOT NULL, input TEXT NOT NULL, answer TEXT NOT NULL, '
    'PRIMARY KEY (id, number))',
    'CREATE INDEX IF NOT EXISTS requests_by_time ON requests (time)',
    'CREATE TABLE IF NOT EXISTS feedback (id TEXT NOT NULL, number INTEGER NOT NULL, time DOUBLE PRECISION NOT NULL, '
    'label TEXT, rating TEXT, comment TEXT{own_columns})',
    'CREATE INDEX IF NOT EXISTS feedback_by_request ON feedback (id, number)',
)
_ADD_REQUEST = f'INSERT INTO requests ({_REQUEST_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING'
_ADD_FEEDBACK = f'INSERT INTO feedback ({_FEEDBACK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)'
_MODELS = 'SELECT DISTINCT model FROM requests'
_MODEL_OF = 'SELECT model FROM requests WHERE id = ? AND number = ?'
_LAST = (
    '(SELECT {what} FROM feedback f WHERE f.id = r.id AND f.number = r.number AND {what} IS NOT NULL '
    'ORDER BY f.{row_number} DESC LIMIT 1) AS last_{what}'
)
_KEPT = (
    f'SELECT {", ".join(f"r.{name}" for name in _REQUEST_COLUMNS.split(", "))}, {{label}}, {{rating}} FROM requests r '
    'WHERE r.time >= ? AND (CAST(? AS TEXT) IS NULL OR r.model = ?) ORDER BY r.time, r.id, r.number'
)


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
    """A database of requests, answers and feedback, which threads share.

    Args:
      place: SQLite file, which is created if it does not exist, or URL of a PostgreSQL database.
      redact: function that every text passes before it is written; None keeps texts as they are.
      keep_days: days after which rows are deleted; None keeps them.

    Raises:
      UserError: the database cannot be opened, or holds something else.
    """

    def __init__(
        self, place: str | Path, redact: Callable[[str], str] | None = None, keep_days: float | None = None
    ) -> None:
        self._redact, self._keep_days = redact, keep_days
        self._deleted_at = 0.0
        self._database = connect(place)
        try:
            self._database.create([table.format(own_columns=self._database.own_columns) for table in _TABLES])
            self._database.run(_check_columns)
            self.delete_old()
        except self._database.errors as error:
            self._database.close()
            raise UserError(f'{self._database.shown} cannot keep requests: {_one_line(error)}.') from None

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
            self._database.run(lambda cursor: cursor.execute_many(_ADD_REQUEST, rows))
            if now - self._deleted_at > _HOUR:
                self.delete_old()
        except Exception:  # a redaction hook is the user's code
            _LOGGER.exception('a request could not be kept in %s', self._database.shown)

    def model_of(self, identifier: str, number: int) -> str | None:
        """Return the name of the model that answered an input of a request; None if there is no such request."""
        row = self._database.run(lambda cursor: cursor.execute(_MODEL_OF, (identifier, number)).fetchone())
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
        row = (
            identifier, number, time.time(), None if label is None else self._json(label), rating,
            None if comment is None else self._hidden(comment),
        )  # fmt: skip

        def add(cursor: Cursor) -> bool:
            if cursor.execute(_MODEL_OF, (identifier, number)).fetchone() is None:
                return False
            cursor.execute(_ADD_FEEDBACK, row)
            return True

        return self._database.run(add)

    def delete_old(self) -> int:
        """Delete what is older than the retention; return the number of requests deleted."""
        self._deleted_at = time.time()
        if self._keep_days is None:
            return 0
        limit = self._deleted_at - self._keep_days * _DAY

        def delete(cursor: Cursor) -> int:
            old = cursor.execute('DELETE FROM requests WHERE time < ?', (limit,)).rowcount
            cursor.execute('DELETE FROM feedback WHERE id NOT IN (SELECT id FROM requests)')
            return old

        return self._database.run(delete)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What `model_of` and `add_feedback` raise if the database cannot be reached or written."""
        return self._database.errors

    def close(self) -> None:
        """Close the database."""
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


def read(place: str | Path, model: str | None = None, since: float = 0.0, with_label: bool = False) -> Iterator[Kept]:
    """Yield what a server has kept, in order of time.

    Args:
      place: SQLite file or URL that the `RequestLog` was made with.
      model: name of the model; None is all.
      since: time of the first request, in seconds since the epoch.
      with_label: whether to yield only what a user has given the right label or answer of.

    Raises:
      UserError: the database does not exist, it holds something else, or no answers of the model.
    """
    with contextlib.closing(connect(place, read_only=True)) as database:
        damage: tuple[type[Exception], ...] = (*database.errors, ValueError)  # a ValueError of texts that are not JSON
        try:
            if model is not None:
                _check_model(database, model)
            for row in database.rows(_query(database), (since, model, model)):
                *fields, given, answer, label, rating = row
                if label is not None or not with_label:
                    texts = dict(zip(('input', 'answer', 'label'), map(_parsed, (given, answer, label)), strict=True))
                    names = ('id', 'number', 'time', 'model', 'checkpoint', 'endpoint')
                    yield Kept(**dict(zip(names, fields, strict=True)), **texts, rating=rating)
        except damage as error:
            raise UserError(f'{database.shown} does not hold requests of a server: {_one_line(error)}.') from None


def _check_model(database: Database, model: str) -> None:
    """Raise UserError if no model of that name has answered."""
    names = sorted(name for (name,) in database.rows(_MODELS, ()))
    if model not in names:
        known = f'Models that answered: {", ".join(names)}.' if names else 'It holds no answers.'
        raise UserError(f'{database.shown} has no model {model!r}.{closest(model, names)} {known}')


def _query(database: Database) -> str:
    """Return the query for all requests with the last label and the last rating of each."""
    last = {what: _LAST.format(what=what, row_number=database.row_number) for what in ('label', 'rating')}
    return _KEPT.format(**last)


def _check_columns(cursor: Cursor) -> None:
    """Raise the database's error if its tables of these names are others."""
    cursor.execute(f'SELECT {_REQUEST_COLUMNS} FROM requests LIMIT 0')
    cursor.execute(f'SELECT {_FEEDBACK_COLUMNS} FROM feedback LIMIT 0')


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split()).rstrip('.')


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)
