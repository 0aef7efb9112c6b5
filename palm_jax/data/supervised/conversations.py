"""Turns of text, some of which are learned: pairs of a table, questions, dialogues."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from palm_jax.data.readers import tables
from palm_jax.data.readers.bad_rows import shared_bad_rows
from palm_jax.data.readers.splits import is_held_out
from palm_jax.data.readers.tables import Row
from palm_jax.errors import UserError, closest

_LEARNED_ROLES = ('assistant', 'model', 'bot', 'gpt')
_TEXT_KEYS = ('content', 'message', 'text', 'value')
_ROLE_KEYS = ('role', 'from', 'speaker')


class Turn(NamedTuple):
    """A text, and whether the model learns to write it."""

    text: str
    learned: bool


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Turns in order, and where they stand; `references` are the right last turns where there are several."""

    turns: tuple[Turn, ...]
    location: str
    references: tuple[str, ...] = ()


class Source(Protocol):
    """Where conversations come from."""

    def examples(self, split: Literal['train', 'validation']) -> list[Conversation]:
        """Those of a split."""

    def asked(self, given: Any) -> tuple[Turn, ...]:
        """The turns that somebody who wants an answer has given."""


@dataclasses.dataclass(frozen=True)
class PairTable:
    """Tables with an input and a target in every row; templates name the columns.

    Attributes:
      train_files: a path or glob, see `tables.read`.
      validation_files: the held-out part; None holds out one row in `held_out`, by the hash of its input.
      input, target: templates: `question: {question} context: {context}`; {0} is the first column.
      references_column: a JSON list of all right targets; None: all targets that rows with the same input have.
      columns: names of the columns where the file has no header.
      split_by: template whose hash decides what is held out, so that rows which share it stay together;
        None: the input.
      held_out: see `validation_files`.
      bad_rows: file for what cannot be used, see `BadRows`; None: the first of it is an error.
    """

    train_files: str | None
    validation_files: str | None = None
    input: str = '{input}'
    target: str = '{target}'
    references_column: str | None = None
    columns: tuple[str, ...] | list[str] | None = None
    split_by: str | None = None
    held_out: int = 10
    bad_rows: str | None = None

    def examples(self, split: Literal['train', 'validation']) -> list[Conversation]:
        """The rows of a split."""
        rows = self._rows(split)
        inputs = [_fill(self.input, row.values) for row in rows]
        targets = [_fill(self.target, row.values) for row in rows]
        same: dict[str, list[str]] = collections.defaultdict(list)
        for text, target in zip(inputs, targets, strict=True):
            same[text].append(target)
        return [
            Conversation(
                (Turn(text, False), Turn(target, True)),
                row.location,
                tuple(same[text] if self.references_column is None else _references(row, self.references_column)),
            )
            for row, text, target in zip(rows, inputs, targets, strict=True)
        ]

    @property
    def fields(self) -> list[str]:
        """The columns that the input is made from."""
        return _fields(self.input)

    def asked(self, given: str | Mapping[str, str]) -> tuple[Turn, ...]:
        """An input from its columns; a text, as a row of a text file is, will do where the template has one."""
        fields = self.fields
        if not isinstance(given, str) and given.keys() == {'text'}:
            given = given['text']
        if isinstance(given, str) and len(fields) < 2:
            given = {fields[0] if fields else '0': given}
        missing = fields if isinstance(given, str) else [name for name in fields if name not in given]
        if missing:
            raise UserError(
                f'The input is made from the template {self.input!r}: give a dict with {", ".join(fields)}.'
            )
        return (Turn(_fill(self.input, dict(given)), False),)

    def _rows(self, split: str) -> list[Row]:
        read = functools.partial(_split, split, self.train_files, self.validation_files, self.held_out)
        return read(self._read, lambda row: _fill(self.split_by or self.input, row.values))

    def _read(self, pattern: str, binding: str) -> Sequence[Row]:
        wanted = [('INPUT_TEMPLATE', name) for name in _fields(self.input)] + [
            ('TARGET_TEMPLATE', name) for name in _fields(self.target)
        ]
        if self.references_column is not None:
            wanted.append(('REFERENCES_COLUMN', self.references_column))
        header = None if self.columns is None else tuple(self.columns)
        return tables.read(pattern, tuple(wanted), binding, header, self.bad_rows)


@dataclasses.dataclass(frozen=True)
class Dialogues:
    """Transcripts: objects with `messages`, of which the model learns the replies only.

    A message has a text (`content`, `message` or `text`) and perhaps a `role`; replies are the
    assistant's, or where there are no roles every second message.

    Attributes:
      train_files: a path or glob of `.jsonl` (an object a line) or `.json` (a list) files.
      validation_files: the held-out part; None holds out one transcript in `held_out`, by the hash
        of its first message.
      held_out: see `validation_files`.
      bad_rows: file for what cannot be used, see `BadRows`; None: the first of it is an error.
    """

    train_files: str | None
    validation_files: str | None = None
    held_out: int = 10
    bad_rows: str | None = None

    def examples(self, split: Literal['train', 'validation']) -> list[Conversation]:
        """The transcripts of a split."""
        read = functools.partial(_split, split, self.train_files, self.validation_files, self.held_out)
        return read(self._read, lambda conversation: conversation.turns[0].text)

    def asked(self, given: str | Sequence[Any] | Mapping[str, Any]) -> tuple[Turn, ...]:
        """A message, or all that have been exchanged, the newest last, also as `messages` of a transcript."""
        if isinstance(given, Mapping):
            given = given.get('messages')
        messages = [given] if isinstance(given, str) else given
        if not isinstance(messages, Sequence) or not messages:
            raise UserError('A dialogue is asked by a message, or by `messages`: a list of all, the newest last.')
        return tuple(Turn(_text(message, f'message {n}'), False) for n, message in enumerate(messages, 1))

    def _read(self, pattern: str, binding: str) -> list[Conversation]:
        rows = tables.read(pattern, (('messages', 'messages'),), binding, bad_rows=self.bad_rows)
        bad = shared_bad_rows(self.bad_rows)
        conversations = list(bad.keep(rows, lambda row: Conversation(_turns(row), row.location)))
        bad.report()
        return conversations


def _split(split, train_files, validation_files, held_out, read, key):
    if train_files is None:
        raise UserError('Name a file with your texts: --gin.TRAIN_FILES=...')
    if validation_files is not None:
        given = (train_files, 'TRAIN_FILES') if split == 'train' else (validation_files, 'VALIDATION_FILES')
        return list(read(*given))
    everything = read(train_files, 'TRAIN_FILES')
    chosen = [item for item in everything if is_held_out(key(item), held_out) == (split == 'validation')]
    if not chosen:
        raise UserError(
            f'TRAIN_FILES = {train_files!r} has {len(everything)} examples, too few to hold a part out. '
            'Name one with --gin.VALIDATION_FILES=...'
        )
    return chosen


def _fields(template: str) -> list[str]:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template)]
    except ValueError as error:
        raise UserError(f'The template {template!r}: {error}. Columns stand in braces: "{{question}}".') from None
    return [name for name in names if name is not None and not name.isdigit()]  # {0} is the first column


def _fill(template: str, values: dict[str, str]) -> str:
    return string.Formatter().vformat(template, list(values.values()), values)


def _references(row: Row, column: str) -> list[str]:
    references = _json_list(row.values[column])
    if not references or not all(isinstance(text, str) for text in references):
        raise UserError(
            f'{row.location}: REFERENCES_COLUMN = {column!r} is no JSON list of texts: {row.values[column]!r}.'
        )
    return references


def _json_list(text: str) -> list[Any] | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, list) else None


def _turns(row: Row) -> tuple[Turn, ...]:
    messages = _json_list(row.values['messages'])
    if not messages:
        raise UserError(f'{row.location}: `messages` is no list of messages.')
    turns = []
    for number, message in enumerate(messages, 1):
        text = _text(message, f'{row.location}, message {number}')
        role = next((message[key] for key in _ROLE_KEYS if key in message), None) if isinstance(message, dict) else None
        turns.append(Turn(text, number % 2 == 0 if role is None else _is_learned(role, row, number)))
    if not any(turn.learned for turn in turns):
        raise UserError(f'{row.location}: no message is a reply; replies have the role {" or ".join(_LEARNED_ROLES)}.')
    return tuple(turns)


def _text(message: Any, location: str) -> str:
    text = message
    if isinstance(message, dict):
        text = next((message[key] for key in _TEXT_KEYS if key in message), None)
    if not isinstance(text, str):
        raise UserError(f'{location}: no text; it is one of {", ".join(_TEXT_KEYS)}.')
    return text


def _is_learned(role: Any, row: Row, number: int) -> bool:
    known = (*_LEARNED_ROLES, 'user', 'human', 'system', 'tool')
    if role not in known:
        raise UserError(
            f'{row.location}, message {number}: the role {role!r} is unknown.{closest(str(role), known)} '
            f'Known: {", ".join(known)}.'
        )
    return role in _LEARNED_ROLES
