"""Conversations: turns of text of which the model learns to generate some. Inputs with targets, and dialogues."""

from __future__ import annotations

import collections
import dataclasses
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from palm_jax.data.readers import tables
from palm_jax.data.readers.bad_rows import shared_bad_rows
from palm_jax.data.readers.splits import Split, read_split
from palm_jax.data.readers.tables import Row
from palm_jax.errors import UserError, closest

_LEARNED_ROLES = ('assistant', 'model', 'bot', 'gpt')
_TEXT_KEYS = ('content', 'message', 'text', 'value')
_ROLE_KEYS = ('role', 'from', 'speaker')


class Turn(NamedTuple):
    """A text, and whether the model learns to generate it."""

    text: str
    learned: bool


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Turns in order.

    Attributes:
      turns: the turns.
      location: file and line, for messages.
      references: all correct last turns, if there are several.
    """

    turns: tuple[Turn, ...]
    location: str
    references: tuple[str, ...] = ()


class Source(Protocol):
    """A source of conversations.

    Attributes:
      validation_files: files of the validation split; None holds out some of the others.
    """

    @property
    def validation_files(self) -> str | None: ...

    def examples(self, split: Split) -> list[Conversation]:
        """Return the conversations of a split."""

    def prompt_turns(self, inputs: Any) -> tuple[Turn, ...]:
        """Return the turns to be answered, from the inputs of a user of the trained model."""


@dataclasses.dataclass(frozen=True)
class PairTable:
    """Tables with an input and a target in every row; templates name the columns.

    Attributes:
      train_files: path or glob, see `tables.read`.
      validation_files: path or glob of the validation split; None holds out one row in `held_out`, chosen by the hash
        of its input, so that rows with the same input stay together.
      input: template of the input, `question: {question} context: {context}`; {0} is the first column.
      target: template of the target.
      references_column: column with a JSON list of all correct targets; None takes the targets of all rows that have
        the same input.
      columns: column names of a file without a header.
      split_by: template whose hash decides what is held out, so that rows that share its value stay together; None is
        the input.
      held_out: see `validation_files`.
      bad_rows: file that collects unusable rows, see `BadRows`; None makes the first of them an error.
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

    def examples(self, split: Split) -> list[Conversation]:
        """Return a conversation of two turns for each row of a split."""
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
        """Columns that the input template names."""
        return _fields(self.input)

    def prompt_turns(self, inputs: str | Mapping[str, str]) -> tuple[Turn, ...]:
        """Return the input made from its columns; a text is enough if the template names at most one column."""
        fields = self.fields
        if not isinstance(inputs, str | Mapping):
            raise UserError(f'The input {inputs!r} is neither a text nor a dict of the columns {", ".join(fields)}.')
        if not isinstance(inputs, str) and inputs.keys() == {'text'}:
            inputs = inputs['text']  # a line of a text file
        if isinstance(inputs, str) and len(fields) < 2:
            inputs = {fields[0] if fields else '0': inputs}
        if isinstance(inputs, str) or any(name not in inputs for name in fields):
            raise UserError(
                f'The input is made from the template {self.input!r}: give a dict with {", ".join(fields)}.'
            )
        return (Turn(_fill(self.input, dict(inputs)), False),)

    def _rows(self, split: Split) -> list[Row]:
        return read_split(
            split,
            self.train_files,
            self.validation_files,
            self.held_out,
            self._read,
            self._keys,
            'rows',
        )

    def _keys(self, row: Row) -> tuple[str, ...]:
        """Return what identifies a row: its input, or its input and target where many have the input."""
        if self.split_by is not None:
            return (_fill(self.split_by, row.values),)
        return _fill(self.input, row.values), _fill(self.target, row.values)

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

    A message has a text (`content`, `message`, `text` or `value`) and optionally a `role`. Replies are the messages of
    the assistant, or every second message if there are no roles.

    Attributes:
      train_files: path or glob of `.jsonl` (an object per line) or `.json` (a list) files.
      validation_files: path or glob of the validation split; None holds out one transcript in `held_out`, chosen by the
        hash of its messages before the first reply or, where many have those, of further messages.
      held_out: see `validation_files`.
      bad_rows: file that collects unusable transcripts, see `BadRows`; None makes the first of them an error.
    """

    train_files: str | None
    validation_files: str | None = None
    held_out: int = 10
    bad_rows: str | None = None

    def examples(self, split: Split) -> list[Conversation]:
        """Return the transcripts of a split."""
        return read_split(
            split,
            self.train_files,
            self.validation_files,
            self.held_out,
            self._read,
            _keys_of_turns,
            'transcripts',
        )

    def prompt_turns(self, inputs: str | Sequence[Any] | Mapping[str, Any]) -> tuple[Turn, ...]:
        """Return the turns of a message, of a list of all messages so far, or of an object with such `messages`."""
        messages = inputs.get('messages') if isinstance(inputs, Mapping) else inputs
        if isinstance(messages, str):
            messages = [messages]
        if not isinstance(messages, Sequence) or not messages:
            raise UserError('A dialogue needs a message, or `messages`: a list of all messages, the newest last.')
        return tuple(Turn(_text(message, f'message {n}'), False) for n, message in enumerate(messages, 1))

    def _read(self, pattern: str, binding: str) -> list[Conversation]:
        rows = tables.read(pattern, (('messages', 'messages'),), binding, bad_rows=self.bad_rows)
        bad = shared_bad_rows(self.bad_rows)
        conversations = list(bad.keep(rows, lambda row: Conversation(_turns(row), row.location)))
        bad.report()
        return conversations


def _keys_of_turns(conversation: Conversation) -> tuple[str, ...]:
    """Return the turns before the first reply, those from there to before the last reply, and the rest."""
    replies = [number for number, turn in enumerate(conversation.turns) if turn.learned]
    first, last = min(replies, default=0), max(replies, default=0)
    texts = [turn.text for turn in conversation.turns]
    return tuple('\x1f'.join(part) for part in (texts[:first], texts[first:last], texts[last:]))


def _fields(template: str) -> list[str]:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template)]
    except ValueError as error:
        raise UserError(f'The template {template!r}: {error}. Put column names in braces: "{{question}}".') from None
    return [name for name in names if name is not None and not name.isdigit()]  # {0} is the first column


def _fill(template: str, values: dict[str, str]) -> str:
    return string.Formatter().vformat(template, list(values.values()), values)


def _references(row: Row, column: str) -> list[str]:
    references = _json_list(row.values[column])
    if not references or not all(isinstance(text, str) for text in references):
        raise UserError(
            f'{row.location}: REFERENCES_COLUMN = {column!r} is not a JSON list of texts: {row.values[column]!r}.'
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
        raise UserError(f'{row.location}: `messages` is not a list of messages.')
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
        raise UserError(f'{location}: the message has no text; its key is one of {", ".join(_TEXT_KEYS)}.')
    return text


def _is_learned(role: Any, row: Row, number: int) -> bool:
    known = (*_LEARNED_ROLES, 'user', 'human', 'system', 'tool')
    if role not in known:
        raise UserError(
            f'{row.location}, message {number}: the role {role!r} is unknown.{closest(str(role), known)} '
            f'Known: {", ".join(known)}.'
        )
    return role in _LEARNED_ROLES
