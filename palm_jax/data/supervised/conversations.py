"""Conversations: turns of text of which the model learns to generate some. Inputs with targets, and dialogues."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from palm_jax.bounds import Count
from palm_jax.data.readers import tables
from palm_jax.data.readers.bad_rows import shared_bad_rows
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.row import Row
from palm_jax.data.readers.splits import Split, read_split
from palm_jax.data.supervised import messages
from palm_jax.data.supervised.templates import Template
from palm_jax.data.supervised.turns import Turn
from palm_jax.errors import UserError


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

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts of all turns."""
        return tuple(turn.text for turn in self.turns)

    def map_texts(self, change: Callable[[str], str]) -> Conversation:
        """Return the conversation with changed texts of the turns that the model only reads."""
        turns = tuple(turn if turn.learned else Turn(change(turn.text), False) for turn in self.turns)
        return dataclasses.replace(self, turns=turns)


class Source(Protocol):
    """A source of conversations.

    Attributes:
      validation_files: files of the validation split; None holds out some of the others.
    """

    @property
    def validation_files(self) -> str | None: ...

    @property
    def layout(self) -> Layout:
        """Layout of the files."""

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
      columns: names of the columns of a file without a header, see `Layout`.
      split_by: template whose hash decides what is held out, so that rows that share its value stay together; None is
        the input.
      held_out: see `validation_files`.
      bad_rows: file that collects unusable rows, see `BadRows`; None makes the first of them an error.
      quoting: whether cells may be enclosed in quotation marks; None is True for `.csv` and False for `.tsv`, `.txt`.
      encoding: encoding of files that are not UTF-8, as Python names it (`cp1250`); None: all are UTF-8.
    """

    train_files: str | None
    validation_files: str | None = None
    input: str = '{input}'
    target: str = '{target}'
    references_column: str | None = None
    columns: tuple[str, ...] | list[str] | None = None
    split_by: str | None = None
    held_out: Count = 10
    bad_rows: str | None = None
    quoting: bool | None = None
    encoding: str | None = None

    @property
    def layout(self) -> Layout:
        """Layout of the files."""
        return Layout.of(self.columns, self.quoting, self.encoding)

    def reading(self, files: str, labels: Sequence[str] = (), predicted: bool = False) -> PairTable:
        """Return the same table of other training files; see `InMemoryData.of_files`."""
        del labels
        read = dataclasses.replace(self, train_files=files, validation_files=None)
        return dataclasses.replace(read, target='{predicted}', references_column=None) if predicted else read

    def examples(self, split: Split) -> list[Conversation]:
        """Return a conversation of two turns for each row of a split."""
        pairs = read_split(
            split,
            self.train_files,
            self.validation_files,
            self.held_out,
            self._read,
            lambda pair: pair.keys,
            'rows',
        )
        same: dict[str, list[str]] = collections.defaultdict(list)
        for pair in pairs:
            same[pair.input].append(pair.target)
        return [
            Conversation(
                (Turn(pair.input, False), Turn(pair.target, True, 'assistant')),
                pair.location,
                pair.references or tuple(same[pair.input]),
            )
            for pair in pairs
        ]

    @property
    def fields(self) -> list[str]:
        """Columns that the input template names."""
        return self._input.fields

    def prompt_turns(self, inputs: str | Mapping[str, Any]) -> tuple[Turn, ...]:
        """Return the input made from its columns; a text is enough if the template names at most one column."""
        fields = self.fields
        if not isinstance(inputs, str | Mapping):
            raise UserError(f'The input {inputs!r} is neither a text nor a dict of the columns {", ".join(fields)}.')
        if not isinstance(inputs, str) and inputs.keys() == {'text'} and len(fields) < 2:
            inputs = inputs['text']
        if isinstance(inputs, str) and len(fields) < 2:
            inputs = {fields[0] if fields else '0': inputs}
        if isinstance(inputs, str) or any(name not in inputs for name in fields):
            has = 'is a text' if isinstance(inputs, str) else f'has {", ".join(map(str, inputs)) or "nothing"}'
            raise UserError(
                f'The input is made from INPUT_TEMPLATE = {self.input!r}, but {has}: give a dict with '
                f'{", ".join(fields)}, or a table with these columns; --gin.INPUT_TEMPLATE=... names others.'
            )
        return (Turn(self._input.fill(inputs), False),)

    @property
    def _input(self) -> Template:
        return Template(self.input, 'INPUT_TEMPLATE')

    def _read(self, pattern: str, binding: str) -> list[_Pair]:
        given, target = self._input, Template(self.target, 'TARGET_TEMPLATE')
        key = None if self.split_by is None else Template(self.split_by, 'SPLIT_BY')
        templates = [given, target] if key is None else [given, target, key]
        wanted = [(template.binding, name) for template in templates for name in template.fields]
        if self.references_column is not None:
            wanted.append(('REFERENCES_COLUMN', self.references_column))
        rows = tables.read(pattern, tuple(wanted), binding, self.layout, self.bad_rows)
        bad = shared_bad_rows(self.bad_rows)

        def pair(row: Row) -> _Pair:
            texts = given.fill(row.values, row.location), target.fill(row.values, row.location)
            keys = texts if key is None else (key.fill(row.values, row.location, may_be_empty=True),)
            return _Pair(*texts, keys, _references(row, self.references_column), row.location)

        pairs = list(bad.keep(rows, pair))
        bad.report()
        if not pairs:
            raise UserError(f'{binding} = {pattern!r}: the file contains no rows{bad.why_none_is_left()}.')
        return pairs


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A row as texts.

    Attributes:
      input: filled template of the input.
      target: filled template of the target.
      keys: what identifies the row: its input, or its input and target where many have the input; or SPLIT_BY alone.
      references: all correct targets; empty without REFERENCES_COLUMN.
      location: file and line.
    """

    input: str
    target: str
    keys: tuple[str, ...]
    references: tuple[str, ...]
    location: str


@dataclasses.dataclass(frozen=True)
class Dialogues:
    """Transcripts: objects with `messages` (or ShareGPT's `conversations`), of which the model learns the replies only.

    A message has a text (`content`, `message`, `text` or `value`) and optionally a `role` (or `from`). Replies are the
    messages of the assistant, or every second message if there are no roles; see `messages.transcript`.

    Attributes:
      train_files: path or glob of `.jsonl` (an object per line) or `.json` (a list) files.
      validation_files: path or glob of the validation split; None holds out one transcript in `held_out`, chosen by the
        hash of its messages before the first reply or, where many have those, of further messages.
      held_out: see `validation_files`.
      bad_rows: file that collects unusable transcripts, see `BadRows`; None makes the first of them an error.
      columns: names of the columns of a file without a header, see `Layout`.
      quoting: whether cells may be enclosed in quotation marks; None is True for `.csv` and False for `.tsv`, `.txt`.
      encoding: encoding of files that are not UTF-8, as Python names it (`cp1250`); None: all are UTF-8.
    """

    train_files: str | None
    validation_files: str | None = None
    held_out: Count = 10
    bad_rows: str | None = None
    columns: tuple[str, ...] | list[str] | None = None
    quoting: bool | None = None
    encoding: str | None = None

    @property
    def layout(self) -> Layout:
        """Layout of the files."""
        return Layout.of(self.columns, self.quoting, self.encoding)

    def reading(self, files: str, labels: Sequence[str] = (), predicted: bool = False) -> Dialogues:
        """Return the same table of other training files; see `InMemoryData.of_files`."""
        del labels
        if predicted:
            raise UserError('only labels of texts, and texts, can be those that palm-jax infer has predicted.')
        return dataclasses.replace(self, train_files=files, validation_files=None)

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
        return messages.history(messages.find(inputs) if isinstance(inputs, Mapping) else inputs)

    def _read(self, pattern: str, binding: str) -> list[Conversation]:
        rows = tables.read(pattern, (), binding, self.layout, self.bad_rows)
        bad = shared_bad_rows(self.bad_rows)
        conversations = list(bad.keep(rows, _conversation))
        bad.report()
        if not conversations:
            raise UserError(f'{binding} = {pattern!r}: the file contains no rows{bad.why_none_is_left()}.')
        return conversations


def _conversation(row: Row) -> Conversation:
    if not any(name in row.values for name in messages.COLUMNS):
        raise UserError(
            f'{row.location}: no column `messages` or `conversations`. Columns: {", ".join(row.values)}. '
            'For rows of an input and a target: --gin_file=gin/heads/text_to_text.gin'
        )
    messages.check_row(row.values, row.location)
    return Conversation(messages.transcript(messages.find(row.values), row.location), row.location)


def _keys_of_turns(conversation: Conversation) -> tuple[str, ...]:
    """Return the turns before the first reply, those from there to before the last reply, and the rest."""
    replies = [number for number, turn in enumerate(conversation.turns) if turn.learned]
    first, last = min(replies, default=0), max(replies, default=0)
    texts = [turn.text for turn in conversation.turns]
    return tuple('\x1f'.join(part) for part in (texts[:first], texts[first:last], texts[last:]))


def _references(row: Row, column: str | None) -> tuple[str, ...]:
    if column is None:
        return ()
    references = messages.from_json(row.values[column])
    if not isinstance(references, list) or not references or not all(isinstance(text, str) for text in references):
        raise UserError(
            f'{row.location}: REFERENCES_COLUMN = {column!r} is not a JSON list of texts: {row.values[column]!r}.'
        )
    return tuple(references)
