"""Models that write answers: a correction is the right answer, and answers are scored by the run's first metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.data.supervised.conversations import Dialogues, PairTable
from palm_jax.data.supervised.turns import Turn
from palm_jax.errors import UserError
from palm_jax.evenly_spaced import evenly_spaced
from palm_jax.monitoring.request_log import Kept
from palm_jax.retuning.collect import Labelled
from palm_jax.retuning.forms import Form, original, read_rows, write_json_lines

_TARGET, _REFERENCES = 'right_answer', 'right_answers'  # columns beside those of the champion's table


@dataclasses.dataclass(frozen=True)
class Written(Labelled):
    """Turns with their right answer.

    Attributes:
      turns: turns that are answered.
      columns: columns that the turns are made of; empty for dialogues.
      references: all right answers; empty for that of the label alone.
    """

    turns: tuple[Turn, ...] = ()
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    references: tuple[str, ...] = ()


class Answers(Form):
    """Written answers; the texts of a row are those of the turns before the answer."""

    endpoints = ('/v1/completions', '/v1/chat/completions')
    keeps_last = True  # of two users, both may be right

    @property
    def source(self) -> Any:
        """See `Form`."""
        return original(self.model.data.source)

    def problem(self, row: Labelled) -> str | None:
        """See `Form`."""
        return None if isinstance(row.label, str) and row.label.strip() else 'without a right answer'

    def of_request(self, kept: Kept) -> Labelled:
        """See `Form`."""
        try:
            return self._asked(kept.input, kept.label, kept.id)
        except (UserError, TypeError, KeyError):  # token ids, or an input that lacks something
            return Labelled((), kept.label, kept.id)

    def _asked(self, given: Any, label: Any, source: str) -> Labelled:
        """Return what a server was asked, a prompt or messages, as a row."""
        raise NotImplementedError

    def scores(self, model: Any, rows: Sequence[Labelled], batch_size: int) -> tuple[np.ndarray, str]:
        """See `Form`; of at most EVAL_EXAMPLES rows, spread evenly."""
        del batch_size  # the run's sampler has its own
        reporter = model.run['reporter']
        chosen = _written([rows[i] for i in evenly_spaced(len(rows), reporter.examples)])
        prompts = [model.data.prompt_ids(row.turns) for row in chosen]
        texts = [best.text for best, *_ in model.predictor.complete_ids(model, prompts)]
        return reporter.scores(texts, [row.references or (row.label,) for row in chosen])


class Pairs(Answers):
    """Answers to inputs that a template makes of columns."""

    @property
    def bindings(self) -> dict[str, Any]:
        """See `Form`; INPUT_TEMPLATE stays, because users of the challenger ask it in the same way."""
        found = super().bindings | ({} if self.source.split_by is None else {'SPLIT_BY': None})
        return found | ({'TARGET_TEMPLATE': f'{{{_TARGET}}}'} if self._target == _TARGET else {})

    def row(self, example: Any) -> Labelled:
        """See `Form`."""
        given, target = example.turns
        references = tuple(example.references)
        return Written((given.text,), target.text, example.location, (given,), dict(example.columns), references)

    def _asked(self, given: Any, label: Any, source: str) -> Labelled:
        text = given if isinstance(given, str) else given[-1]['content']
        turns = self.source.prompt_turns(text)
        (name,) = self.source.fields or ('0',)
        return Written((turns[0].text,), label, source, turns, {name: text})

    def write(self, path: Path, rows: Sequence[Labelled]) -> None:
        """See `Form`."""
        found = []
        for row in _written(rows):
            references = list(row.references or [row.label])
            also = {} if self.source.references_column is None else {self.source.references_column: references}
            found.append({**row.columns, self._target: row.label, **also, _REFERENCES: references})
        write_json_lines(path, found)

    def read(self, path: Path) -> list[Labelled]:
        """See `Form`."""
        found: list[Labelled] = []
        for columns in read_rows(path, (self._target, _REFERENCES)):
            turns, references = self.source.prompt_turns(columns), tuple(columns.pop(_REFERENCES))
            found.append(Written((turns[0].text,), columns[self._target], path.name, turns, columns, references))
        return found

    @property
    def _target(self) -> str:
        """Column of the right answer: that of the champion's table if TARGET_TEMPLATE is nothing but a column."""
        name = self.source.target[1:-1]
        is_column = self.source.target == f'{{{name}}}' and name.isidentifier() and name not in self.source.fields
        return name if is_column else _TARGET


class Replies(Answers):
    """Replies in dialogues, of which a row has the last one; earlier ones are learned if they were."""

    def row(self, example: Any) -> Labelled:
        """See `Form`."""
        last = max(number for number, turn in enumerate(example.turns) if turn.learned)
        before, reply = example.turns[:last], example.turns[last]
        return Written(tuple(turn.text for turn in before), reply.text, example.location, before)

    def _asked(self, given: Any, label: Any, source: str) -> Labelled:
        turns = self.source.prompt_turns(given)  # of which nobody has said that they are right
        return Written(tuple(turn.text for turn in turns), label, source, turns)

    def write(self, path: Path, rows: Sequence[Labelled]) -> None:
        """See `Form`."""
        found = []
        for row in _written(rows):
            messages: list[dict[str, Any]] = [_message(turn) for turn in row.turns]
            found.append({'messages': [*messages, {'role': 'assistant', 'content': row.label}]})
        write_json_lines(path, found)

    def read(self, path: Path) -> list[Labelled]:
        """See `Form`."""
        found: list[Labelled] = []
        for row in read_rows(path, ('messages',)):
            *before, reply = row['messages']
            turns = tuple(
                Turn(m['content'], m['role'] == 'assistant' and m.get('weight', 1) == 1, m['role']) for m in before
            )
            found.append(Written(tuple(turn.text for turn in turns), reply['content'], path.name, turns))
        return found


def _written(rows: Sequence[Labelled]) -> list[Written]:
    return [row for row in rows if isinstance(row, Written)]


def _message(turn: Turn) -> dict[str, Any]:
    """Return a turn as a message; a reply that is not learned says so."""
    is_only_read = turn.role == 'assistant' and not turn.learned
    return {'role': turn.role, 'content': turn.text} | ({'weight': 0} if is_only_read else {})


def form_of(model: Any) -> type[Answers] | None:
    """Return the form of a model that writes answers; None if its examples are neither pairs nor dialogues."""
    source = original(getattr(model.data, 'source', None))
    return Pairs if isinstance(source, PairTable) else Replies if isinstance(source, Dialogues) else None
