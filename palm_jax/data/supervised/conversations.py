"""Conversations: turns of text of which the model learns to generate some. Inputs with targets, and dialogues."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from palm_jax.data.readers.row import Row
from palm_jax.data.readers.splits import Split
from palm_jax.data.supervised import messages, sources
from palm_jax.data.supervised.sources import Table
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
      split_key: text by whose hash it is held out; None takes its turns.
      columns: row that the turns were made of by templates; empty for none.
    """

    turns: tuple[Turn, ...]
    location: str
    references: tuple[str, ...] = ()
    split_key: str | None = None
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts of all turns."""
        return tuple(turn.text for turn in self.turns)

    def map_texts(self, change: Callable[[str], str]) -> Conversation:
        """Return the conversation with changed texts of the turns that the model only reads."""
        turns = tuple(turn if turn.learned else Turn(change(turn.text), False) for turn in self.turns)
        return dataclasses.replace(self, turns=turns)


class Source(sources.Source, Protocol):
    """A source of conversations."""

    def examples(self, split: Split) -> list[Conversation]:
        """Return the conversations of a split."""

    def prompt_turns(self, inputs: Any) -> tuple[Turn, ...]:
        """Return the turns to be answered, from the inputs of a user of the trained model."""


@dataclasses.dataclass(frozen=True)
class PairTable(Table[Conversation]):
    """Tables with an input and a target in every row; templates name the columns.

    Attributes:
      validation_files: path or glob of the validation split; None holds out one row in `held_out`, chosen by the hash
        of its input, so that rows with the same input stay together.
      input: template of the input, `question: {question} context: {context}`; {0} is the first column.
      target: template of the target.
      references_column: column with a JSON list of all correct targets; None takes the targets of all rows that have
        the same input.
      split_by: template whose hash decides what is held out, so that rows that share its value stay together; None is
        the input.
    """

    input: str = '{input}'
    target: str = '{target}'
    references_column: str | None = None
    split_by: str | None = None

    @property
    def wanted(self) -> tuple[tuple[str, str], ...]:
        """(macro, name) of the columns that the templates name."""
        templates = [self._input, self._target, *([] if self._split_by is None else [self._split_by])]
        named = tuple((template.binding, name) for template in templates for name in template.fields)
        return named if self.references_column is None else (*named, ('REFERENCES_COLUMN', self.references_column))

    def parse(self, row: Row) -> Conversation:
        """Return the filled templates of a row as a conversation of two turns."""
        given, target = (template.fill(row.values, row.location) for template in (self._input, self._target))
        key = None if self._split_by is None else self._split_by.fill(row.values, row.location, may_be_empty=True)
        turns = (Turn(given, False), Turn(target, True, 'assistant'))
        return Conversation(turns, row.location, _references(row, self.references_column), key, row.values)

    def keys(self, example: Conversation) -> tuple[str, ...]:
        """Return the input and, for where many rows have it, the target; or what SPLIT_BY makes of the row."""
        return example.texts if example.split_key is None else (example.split_key,)

    def reading(self, files: str, labels: Sequence[str] = (), predicted: bool = False) -> PairTable:
        """Return the same table of other training files; see `InMemoryData.of_files`."""
        read = super().reading(files, labels)
        return dataclasses.replace(read, target='{predicted}', references_column=None) if predicted else read

    def examples(self, split: Split) -> list[Conversation]:
        """Return a conversation of two turns for each row of a split, with all correct targets."""
        return self._with_references(super().examples(split))

    def further(self, files: str, binding: str) -> list[Conversation]:
        """Return the conversations of further files, with all correct targets; see `ExampleFiles.further`."""
        return self._with_references(super().further(files, binding))

    def _with_references(self, pairs: Sequence[Conversation]) -> list[Conversation]:
        same: dict[str, list[str]] = collections.defaultdict(list)
        for pair in pairs:
            same[pair.texts[0]].append(pair.texts[1])
        return [
            pair if pair.references else dataclasses.replace(pair, references=tuple(same[pair.texts[0]]))
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

    @functools.cached_property
    def _input(self) -> Template:
        return Template(self.input, 'INPUT_TEMPLATE')

    @functools.cached_property
    def _target(self) -> Template:
        return Template(self.target, 'TARGET_TEMPLATE')

    @functools.cached_property
    def _split_by(self) -> Template | None:
        return None if self.split_by is None else Template(self.split_by, 'SPLIT_BY')


@dataclasses.dataclass(frozen=True)
class Dialogues(Table[Conversation]):
    """Transcripts: objects with `messages` (or ShareGPT's `conversations`), of which the model learns the replies only.

    A message has a text (`content`, `message`, `text` or `value`) and optionally a `role` (or `from`). Replies are the
    messages of the assistant, or every second message if there are no roles; see `messages.transcript`.

    Attributes:
      train_files: path or glob of `.jsonl` (an object per line) or `.json` (a list) files.
      validation_files: path or glob of the validation split; None holds out one transcript in `held_out`, chosen by the
        hash of its messages before the first reply or, where many have those, of further messages.
      bad_rows: file that collects unusable transcripts, see `BadRows`; None makes the first of them an error.
    """

    noun = 'transcripts'

    def parse(self, row: Row) -> Conversation:
        """Return the messages of a row as turns."""
        if not any(name in row.values for name in messages.COLUMNS):
            raise UserError(
                f'{row.location}: no column `messages` or `conversations`. Columns: {", ".join(row.values)}. '
                'For rows of an input and a target: --gin_file=gin/heads/text_to_text.gin'
            )
        messages.check_row(row.values, row.location)
        return Conversation(messages.transcript(messages.find(row.values), row.location), row.location)

    def keys(self, example: Conversation) -> tuple[str, ...]:
        """Return the turns before the first reply, those from there to before the last reply, and the rest."""
        replies = [number for number, turn in enumerate(example.turns) if turn.learned]
        first, last = min(replies, default=0), max(replies, default=0)
        parts = (example.texts[:first], example.texts[first:last], example.texts[last:])
        return tuple(map('\x1f'.join, parts))

    def prompt_turns(self, inputs: str | Sequence[Any] | Mapping[str, Any]) -> tuple[Turn, ...]:
        """Return the turns of a message, of a list of all messages so far, or of an object with such `messages`."""
        return messages.history(messages.find(inputs) if isinstance(inputs, Mapping) else inputs)


def _references(row: Row, column: str | None) -> tuple[str, ...]:
    if column is None:
        return ()
    references = messages.from_json(row.values[column])
    if not isinstance(references, list) or not references or not all(isinstance(text, str) for text in references):
        raise UserError(
            f'{row.location}: REFERENCES_COLUMN = {column!r} is not a JSON list of texts: {row.values[column]!r}.'
        )
    return tuple(references)
