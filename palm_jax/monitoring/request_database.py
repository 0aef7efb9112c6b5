"""Where a request log is: an SQLite file, or a PostgreSQL database that a URL names.

The SQL of `request_log` is for both. Here is what differs: how a connection is opened, how parameters are marked, and
the number by which feedback is put in order.
"""

from __future__ import annotations

import abc
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from palm_jax.errors import UserError, closest
from palm_jax.wording import without_passwords

Result = TypeVar('Result')
_TIMEOUT = 30  # seconds
_CONNECT_TIMEOUT = 10  # seconds
_ROWS = 2000  # that are read at a time
_SCHEMES = ('postgresql', 'postgres')
_SCHEMA_LOCK = 7_256_100  # of the tables' creation, among PostgreSQL's advisory locks


class Cursor(abc.ABC):
    """Runs SQL whose parameters are question marks."""

    @abc.abstractmethod
    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Any:
        """Run a statement, and return a cursor with `fetchone` and `rowcount`."""

    @abc.abstractmethod
    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for every row."""


class Database(abc.ABC):
    """A database that threads share.

    Attributes:
      shown: its name in messages, without a password.
      errors: what its operations raise.
      row_number: column of which a later row has a larger value.
      own_columns: definition of this column, for a table that needs one; empty where every table has it.
    """

    shown: str
    errors: tuple[type[Exception], ...]
    row_number: str
    own_columns: str

    @abc.abstractmethod
    def create(self, statements: Sequence[str]) -> None:
        """Make the tables if they are not there."""

    @abc.abstractmethod
    def run(self, action: Callable[[Cursor], Result]) -> Result:
        """Return what an action returns, which runs as one transaction."""

    @abc.abstractmethod
    def rows(self, query: str, parameters: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, of which only some are in memory at a time."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connection."""


def is_url(place: str | Path) -> bool:
    """Return whether a place is named by a URL rather than a path."""
    return '://' in str(place)


def check_place(text: str) -> str:
    """Return the name of a database that can be written to: a `.db` file, or a PostgreSQL URL.

    Raises:
      UserError: it is neither.
    """
    scheme, separator, _ = text.partition('://')
    if separator and scheme not in _SCHEMES:
        shown = without_passwords(text)
        raise UserError(
            f'{shown}: {scheme}:// is not supported.{closest(scheme, _SCHEMES)} Write postgresql://host/name'
        )
    if not separator and Path(text).suffix != '.db':
        other = Path(text).with_suffix('.db') if Path(text).name else 'requests.db'
        raise UserError(f'{text!r} must end in .db, e.g. {other}, or be a URL: postgresql://host/name')
    return text


def connect(place: str | Path, read_only: bool = False) -> Database:
    """Open a database.

    Args:
      place: path of an SQLite file, or `postgresql://user@host/name`.
      read_only: whether nothing will be written, and an SQLite file must exist.

    Raises:
      UserError: it cannot be opened, or its driver is not installed.
    """
    if is_url(place):
        return PostgreSQL(check_place(str(place)), read_only)
    if read_only and not Path(place).is_file():
        raise UserError(f'{place} does not exist: name the file that palm-jax serve --keep=FILE wrote.')
    return SQLite(Path(place), read_only)


def check_connection(place: str) -> None:
    """Refuse a database server that cannot be reached, without writing to it; an SQLite file is not touched.

    Args:
      place: see `connect`.

    Raises:
      UserError: the database cannot be opened, its driver is not installed, or it cannot hold every text.
    """
    if is_url(place):
        connect(place).close()


class _SQLiteCursor(Cursor):
    def __init__(self, cursor: sqlite3.Cursor):
        self._cursor = cursor

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Any:
        """See `Cursor`."""
        return self._cursor.execute(statement, parameters)

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """See `Cursor`."""
        self._cursor.executemany(statement, rows)


class SQLite(Database):
    """A file.

    Args:
      path: the file, which is created unless it is only read.
      read_only: whether nothing will be written.
    """

    errors = (sqlite3.Error,)
    row_number, own_columns = 'rowid', ''

    def __init__(self, path: Path, read_only: bool):
        self.shown, self._lock = str(path), threading.Lock()
        name = f'{path.absolute().as_uri()}?mode=ro' if read_only else path
        try:
            self._connection = sqlite3.connect(name, uri=read_only, check_same_thread=False, timeout=_TIMEOUT)
            if not read_only:
                self._connection.execute('PRAGMA journal_mode=WAL')
        except sqlite3.Error as error:
            raise UserError(f'{path} cannot {"be read" if read_only else "keep requests"}: {error}.') from None

    def create(self, statements: Sequence[str]) -> None:
        """See `Database`."""
        with self._lock, self._connection:
            for statement in statements:
                self._connection.execute(statement)

    def run(self, action: Callable[[Cursor], Result]) -> Result:
        """See `Database`."""
        with self._lock, self._connection:
            return action(_SQLiteCursor(self._connection.cursor()))

    def rows(self, query: str, parameters: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """See `Database`."""
        yield from self._connection.execute(query, parameters)

    def close(self) -> None:
        """See `Database`."""
        with self._lock:
            self._connection.close()


class _PostgreSQLCursor(Cursor):
    def __init__(self, cursor: Any):
        self._cursor = cursor

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Any:
        """See `Cursor`."""
        return self._cursor.execute(_with_percent(statement), parameters)

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """See `Cursor`."""
        self._cursor.executemany(_with_percent(statement), rows)


class PostgreSQL(Database):
    """A database of a PostgreSQL server. A connection that the server has ended is opened again.

    Args:
      url: `postgresql://user@host/name`. What it lacks is taken from the environment (`PGPASSWORD`, `PGHOST`, ...) and
        from `~/.pgpass`, as by all of PostgreSQL's programs.
      read_only: whether nothing will be written.
    """

    row_number = 'number_of_row'
    own_columns = ', number_of_row BIGINT GENERATED ALWAYS AS IDENTITY'

    def __init__(self, url: str, read_only: bool):
        try:
            import psycopg
        except ImportError:
            raise UserError('psycopg is not installed: pip install "palm_jax[postgres]"') from None
        self.shown, self.errors = without_passwords(url), (psycopg.Error,)
        self._psycopg, self._url, self._read_only, self._lock = psycopg, url, read_only, threading.Lock()
        try:
            self._connection = self._connect()
            encoding = self._connection.execute('SHOW server_encoding').fetchone()[0]
        except psycopg.Error as error:
            reason = without_passwords(' '.join(str(error).split()))
            advice = 'a password can be in PGPASSWORD or ~/.pgpass'
            raise UserError(f'{self.shown} cannot be opened ({advice}): {reason}') from None
        if encoding != 'UTF8':
            self._connection.close()
            raise UserError(
                f'{self.shown} has the encoding {encoding}, in which not every text can be written. Make another '
                'database: createdb --encoding=UTF8 --template=template0 NAME'
            )

    def _connect(self) -> Any:
        options: dict[str, Any] = {'application_name': 'palm_jax', 'client_encoding': 'utf8'}
        if 'connect_timeout' not in self._url and 'PGCONNECT_TIMEOUT' not in os.environ:
            options['connect_timeout'] = _CONNECT_TIMEOUT
        connection = self._psycopg.connect(self._url, autocommit=True, **options)
        if self._read_only:
            connection.read_only = True
        else:
            connection.execute(f"SET statement_timeout = '{_TIMEOUT}s'")
        return connection

    def create(self, statements: Sequence[str]) -> None:
        """See `Database`; a user who may not make tables can write to those that are there."""
        there = "SELECT to_regclass('requests') IS NOT NULL AND to_regclass('feedback') IS NOT NULL"

        def make(cursor: Cursor) -> None:
            cursor.execute('SELECT pg_advisory_xact_lock(?)', (_SCHEMA_LOCK,))  # another server may do the same now
            if not cursor.execute(there).fetchone()[0]:
                for statement in statements:
                    cursor.execute(statement)

        self.run(make)

    def run(self, action: Callable[[Cursor], Result]) -> Result:
        """See `Database`."""
        with self._lock:
            try:
                return self._run(action)
            except self._psycopg.OperationalError:
                if not self._connection.closed:
                    raise
            self._connection = self._connect()  # the server was restarted, or a firewall has forgotten the connection
            return self._run(action)

    def _run(self, action: Callable[[Cursor], Result]) -> Result:
        with self._connection.transaction(), self._connection.cursor() as cursor:
            return action(_PostgreSQLCursor(cursor))

    def rows(self, query: str, parameters: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """See `Database`."""
        with self._connection.transaction(), self._connection.cursor('kept') as cursor:
            cursor.itersize = _ROWS
            yield from cursor.execute(_with_percent(query), parameters)

    def close(self) -> None:
        """See `Database`."""
        with self._lock, contextlib.suppress(self._psycopg.Error):
            self._connection.close()


def _with_percent(statement: str) -> str:
    """Return SQL with its parameters as psycopg marks them."""
    return statement.replace('?', '%s')
