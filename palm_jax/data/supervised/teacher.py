"""What a teacher predicts for the training texts, from the file that `palm-jax infer` writes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from palm_jax.data.readers import columns, tables
from palm_jax.data.readers.row import Row
from palm_jax.data.readers.splits import normalize
from palm_jax.data.supervised.examples import Batch
from palm_jax.data.supervised.labelled_text import Example, LabelledTable
from palm_jax.errors import UserError, closest

_LOGGER = logging.getLogger(__name__)
_LEAST = 1e-6  # probability of a class that is rounded to 0


@dataclasses.dataclass(frozen=True)
class TeacherPredictions:
    """The probabilities of a teacher's classes as features of the training texts; see `LabelledText.further`.

    The features are `teacher_scores`, float32 [E, C], from which a softmax (for label sets a sigmoid) gives the
    teacher's probabilities, and `teacher_weights`, float32 [E], 0 for texts that the file does not have. Classes that a
    row does not name share what its probabilities leave of 1.

    Attributes:
      files: path or glob of JSON lines with the columns of the training table and `probabilities`, an object of numbers
        by class: what `palm-jax infer --input=TRAIN_FILES --output=...` writes for the teacher.
    """

    files: str | None = None

    def features(self, examples: Sequence[Example], table: LabelledTable) -> Batch:
        """Return the features of training examples.

        Raises:
          UserError: the file has none of the texts, names another class, or is not of that form.
        """
        if self.files is None:
            raise UserError(
                'TEACHER_FILES is not set: name what the teacher predicts for the training table, written by palm-jax '
                'infer --gin_file=.../config.gin --input=... --output=teacher.jsonl'
            )
        if not table.kind.has_classes:
            raise UserError('Distillation needs classes, and this task predicts a number.')
        wanted = ((('TEXT_COLUMN', table.text_column)), ('TEACHER_FILES', 'probabilities'))
        rows = tables.read(self.files, wanted, 'TEACHER_FILES')
        by_text = {_key(_texts(row, table)): self._scores(row, table) for row in rows}
        found = [by_text.get(_key(example.texts)) for example in examples]
        weights = np.array([scores is not None for scores in found], np.float32)
        if not weights.any():
            raise UserError(
                f'TEACHER_FILES = {self.files!r} has none of the training texts: let the teacher predict TRAIN_FILES.'
            )
        if share := 1 - weights.mean():
            _LOGGER.warning(f'{share:.1%} of the training texts have no prediction of the teacher')
        blank = np.zeros(len(table.labels), np.float32)
        scores = np.stack([blank if scores is None else scores for scores in found])
        return {'teacher_scores': scores, 'teacher_weights': weights}

    def _scores(self, row: Row, table: LabelledTable) -> np.ndarray:
        """Scores of a row's probabilities, float32 [C]."""
        given, names = row.values['probabilities'], table.labels
        if not isinstance(given, Mapping) or not all(_is_probability(p) for p in given.values()):
            raise UserError(f'{row.location}: probabilities must be an object of numbers from 0 to 1 by class.')
        if unknown := [name for name in given if name not in names]:
            nearest = closest(unknown[0], names)
            raise UserError(f'{row.location}: the teacher has a class {unknown[0]!r}, which this task lacks.{nearest}')
        p = np.array([given.get(name, np.nan) for name in names], np.float64)
        if not table.kind.is_exclusive:
            p = np.clip(np.nan_to_num(p, nan=0.0), _LEAST, 1 - _LEAST)
            return np.log(p / (1 - p)).astype(np.float32)
        missing = np.isnan(p)
        p[missing] = max(0.0, 1 - np.nansum(p)) / max(missing.sum(), 1)
        return np.log(np.maximum(p, _LEAST)).astype(np.float32)


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _texts(row: Row, table: LabelledTable) -> tuple[str, ...]:
    texts: tuple[str, ...] = (columns.text(row, table.text_column, 'TEXT_COLUMN'),)
    if table.second_text_column is not None:
        texts += (columns.text(row, table.second_text_column, 'SECOND_TEXT_COLUMN'),)
    return texts


def _key(texts: Sequence[str]) -> str:
    return '\x1f'.join(map(normalize, texts))
