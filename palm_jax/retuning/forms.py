"""What renewing a model means for each kind of task: its rows, their tables, and how right an answer is.

A kind is a `Form` of the champion. Rows come from the champion's own data, from what users said to a server's answers,
and from tables; they are written for the challenger's training, and read again.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.data.readers.splits import Split
from palm_jax.errors import UserError
from palm_jax.json_files import read_json_lines
from palm_jax.labels import scoring
from palm_jax.metrics.comparison import ACCURACY
from palm_jax.monitoring.request_log import Kept
from palm_jax.retuning.collect import Labelled
from palm_jax.run_directory import write_whole


class Form(abc.ABC):
    """How a kind of model is renewed.

    Args:
      model: champion, an `api.TrainedModel`.

    Attributes:
      endpoints: paths of the server that answer with such a model.
      suffix: suffix of its tables.
      keeps_last: whether the last of several labels of a text counts; otherwise such a text is dropped.
    """

    endpoints: tuple[str, ...]
    suffix = '.jsonl'
    keeps_last = False

    def __init__(self, model: Any):
        self.model = model

    @property
    @abc.abstractmethod
    def source(self) -> Any:
        """The champion's files, without what augmentation makes of them."""

    @property
    def highest_score(self) -> float | None:
        """The score of an example without an error; None where it is not known."""
        return None

    @abc.abstractmethod
    def row(self, example: Any) -> Labelled:
        """Return an example of the champion's data as a row."""

    @abc.abstractmethod
    def of_request(self, kept: Kept) -> Labelled:
        """Return what a user said to an answer as a row, without texts if the model does not read such an input."""

    @abc.abstractmethod
    def problem(self, row: Labelled) -> str | None:
        """Return what is wrong with the label of a row that has texts; None for nothing."""

    @abc.abstractmethod
    def write(self, path: Path, rows: Sequence[Labelled]) -> None:
        """Write a table."""

    @abc.abstractmethod
    def read(self, path: Path) -> list[Labelled]:
        """Return the rows of a table that `write` wrote."""

    @abc.abstractmethod
    def scores(self, model: Any, rows: Sequence[Labelled], batch_size: int) -> tuple[np.ndarray, str]:
        """Return a score per row, higher is better, and the name of their mean; see `palm-jax compare`.

        Args:
          model: champion or challenger.
          rows: rows.
          batch_size: texts per forward pass of a head.
        """

    @property
    def bindings(self) -> dict[str, Any]:
        """What the challenger reads its tables with, by the names of macros."""
        layout = {name: getattr(self.source, name.lower(), None) for name in ('COLUMNS', 'QUOTING', 'ENCODING')}
        found: dict[str, Any] = {name: None for name, value in layout.items() if value is not None}
        return found | ({'LABELS': list(self.model.data.labels)} if self.model.data.labels else {})

    def rows(self, split: Split) -> list[Labelled]:
        """Return the rows of a split of the champion's data."""
        return [self.row(example) for example in self.source.examples(split)]

    def of_table(self, files: str, flag: str) -> list[Labelled]:
        """Return the rows of files that a flag names, which have the form of the champion's.

        Raises:
          UserError: a row cannot be read.
        """
        return [self.row(example) for example in self.source.read(files, flag)]


def original(source: Any) -> Any:
    """Return a source of examples without what augmentation adds."""
    return getattr(source, 'original', source)


class Labels(Form):
    """Labels of texts or of pairs of texts: classes, sets of them, or numbers."""

    endpoints = ('/v1/classify',)

    @property
    def highest_score(self) -> float:
        """See `Form`."""
        return 1.0 if self.source.kind.has_classes else 0.0

    @property
    def source(self) -> Any:
        """See `Form`."""
        return original(self.model.data.table)

    def row(self, example: Any) -> Labelled:
        """See `Form`."""
        return Labelled(example.texts, json_label(self.source.kind, example.label), example.location)

    def of_request(self, kept: Kept) -> Labelled:
        """See `Form`."""
        texts = (kept.input,) if isinstance(kept.input, str) else tuple(kept.input)
        wanted = 2 if self.model.predictor.reads_pairs(self.model) else 1
        is_read = len(texts) == wanted and all(isinstance(text, str) for text in texts)
        return Labelled(texts if is_read else (), kept.label, kept.id)

    def problem(self, row: Labelled) -> str | None:
        """See `Form`."""
        kind, names, label = self.source.kind, self.model.data.labels, row.label
        as_read = label if isinstance(label, str) else tuple(label) if isinstance(label, list) else str(label)
        try:
            kind.check(as_read)
        except UserError:
            return 'a label that cannot be encoded'
        found = kind.class_names(as_read)
        if names and ((not found and kind.is_exclusive) or any(name not in names for name in found)):
            return 'a label that the model does not have'
        return None

    def write(self, path: Path, rows: Sequence[Labelled]) -> None:
        """See `Form`."""
        columns, label = self._columns
        write_json_lines(path, [dict(zip(columns, row.texts, strict=True)) | {label: row.label} for row in rows])

    def read(self, path: Path) -> list[Labelled]:
        """See `Form`."""
        columns, label = self._columns
        rows = read_rows(path, (*columns, label))
        return [Labelled(tuple(row[c] for c in columns), row[label], path.name) for row in rows]

    def scores(self, model: Any, rows: Sequence[Labelled], batch_size: int) -> tuple[np.ndarray, str]:
        """See `Form`."""
        inputs = [row.texts[0] if len(row.texts) == 1 else row.texts for row in rows]
        predicted = [model.predictor.to_json(p)['predicted'] for p in model.predict(inputs, batch_size=batch_size)]
        kind = self.source.kind
        found = [scoring.score(kind, p, row.label) for p, row in zip(predicted, rows, strict=True)]
        return np.array(found), ACCURACY if kind.has_classes else 'mean absolute error'

    @property
    def _columns(self) -> tuple[tuple[str, ...], str]:
        """Names of the columns of the texts, and of the label."""
        return tuple(name for _, name in self.source.text_columns), self.source.label_column


def json_label(kind: Any, label: Any) -> Any:
    """Return a label of a table as JSON: a name, a list of names, or a number."""
    if not kind.has_classes:
        return float(label)
    return str(label) if kind.is_exclusive else list(kind.class_names(label))


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines, all or none."""
    write_whole(path, ''.join(f'{json.dumps(row, ensure_ascii=False)}\n' for row in rows))


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of JSON lines that have some columns.

    Raises:
      UserError: a line is damaged.
    """
    rows = read_json_lines(path)
    for number, row in enumerate(rows, 1):
        if lacking := [name for name in columns if name not in row]:
            raise UserError(f'{path}, line {number} is damaged: it has no {lacking[0]!r}.')
    return rows
