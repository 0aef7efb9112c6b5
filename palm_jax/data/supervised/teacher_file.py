"""The file of a teacher's predictions, as `palm-jax infer` writes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from palm_jax.data.readers import tables
from palm_jax.data.readers.row import Row
from palm_jax.data.supervised.labelled_text import LabelledTable
from palm_jax.errors import UserError, closest


@dataclasses.dataclass(frozen=True)
class TeacherPrediction:
    """What a teacher predicts for a text or a pair of texts.

    Attributes:
      texts: the text, or both.
      probabilities: probabilities by class, of at least one class.
      row: row of the file.
    """

    texts: tuple[str, ...]
    probabilities: Mapping[str, float]
    row: Row


def read(files: str | None, table: LabelledTable) -> list[TeacherPrediction]:
    """Read what a teacher predicts.

    Args:
      files: path or glob of JSON lines with the columns of the texts and `probabilities`, an object of numbers by
        class.
      table: labelled table, which names the columns and the classes.

    Raises:
      UserError: no file is named, it is not of that form, or it has a class that the table lacks.
    """
    if files is None:
        raise UserError(
            'TEACHER_FILES is not set: name what the teacher predicts, which palm-jax infer '
            '--gin_file=.../config.gin --input=... --output=teacher.jsonl writes.'
        )
    if not table.kind.has_classes:
        raise UserError(
            'TEACHER_FILES needs classes, and this task predicts a number. Train on what the teacher predicts instead: '
            '--gin_file=gin/methods/replay.gin --gin.REPLAY_FILES=teacher.jsonl --gin.REPLAY_PREDICTED=True.'
        )
    rows = tables.read(files, table.text_columns, 'TEACHER_FILES')
    return [TeacherPrediction(table.texts(row), _checked(row, table), row) for row in rows]


def _checked(row: Row, table: LabelledTable) -> Mapping[str, float]:
    if 'probabilities' not in row.values:
        raise UserError(
            f"{row.location}: no column 'probabilities', so this is not what a teacher predicts, which palm-jax infer "
            '--gin_file=.../config.gin --input=... --output=teacher.jsonl writes.'
        )
    given = row.values['probabilities']
    if not isinstance(given, Mapping) or not given or not all(map(_is_probability, given.values())):
        raise UserError(f'{row.location}: probabilities must be an object of numbers from 0 to 1 by class.')
    if unknown := [name for name in given if name not in table.labels]:
        nearest = closest(unknown[0], table.labels)
        raise UserError(f'{row.location}: the teacher has a class {unknown[0]!r}, which this task lacks.{nearest}')
    return given


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
