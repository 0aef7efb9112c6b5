"""What a teacher predicts for the training texts, as features."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from palm_jax.data.readers.splits import text_key
from palm_jax.data.supervised import teacher_file
from palm_jax.data.supervised.examples import Batch
from palm_jax.data.supervised.labelled_example import Example
from palm_jax.data.supervised.labelled_text import LabelledTable
from palm_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)
_LEAST = 1e-6  # probability of a class that is rounded to 0


@dataclasses.dataclass(frozen=True)
class TeacherPredictions:
    """The probabilities of a teacher's classes as features of the training texts; see `LabelledText.further`.

    The features are `teacher_scores`, float32 [E, C], from which a softmax (for label sets a sigmoid) gives the
    teacher's probabilities, and `teacher_weights`, float32 [E], 0 for texts that the file does not have. Classes that a
    row does not name share what its probabilities leave of 1.

    Attributes:
      files: path or glob of predictions for the training table, see `teacher_file.read`.
    """

    reads: ClassVar = 'texts'
    otherwise: ClassVar = 'take --gin_file=gin/methods/distil_tokens.gin'
    files: str | None = None

    def features(self, examples: Sequence[Example], table: LabelledTable) -> Batch:
        """Return the features of training examples.

        Raises:
          UserError: the file has none of the texts, or cannot be used.
        """
        found = {text_key(p.texts): _scores(p.probabilities, table) for p in teacher_file.read(self.files, table)}
        of_examples = [found.get(text_key(example.texts)) for example in examples]
        weights = np.array([scores is not None for scores in of_examples], np.float32)
        if not weights.any():
            raise UserError(
                f'TEACHER_FILES = {self.files!r} has none of the training texts: let the teacher predict TRAIN_FILES.'
            )
        if share := 1 - weights.mean():
            _LOGGER.warning(f'{share:.1%} of the training texts have no prediction of the teacher')
        blank = np.zeros(len(table.labels), np.float32)
        scores = np.stack([blank if scores is None else scores for scores in of_examples])
        return {'teacher_scores': scores, 'teacher_weights': weights}


def _scores(given: Mapping[str, float], table: LabelledTable) -> np.ndarray:
    """Scores of probabilities by class, float32 [C]."""
    p = np.array([given.get(name, np.nan) for name in table.labels], np.float64)
    if not table.kind.is_exclusive:
        p = np.clip(np.nan_to_num(p, nan=0.0), _LEAST, 1 - _LEAST)
        return np.log(p / (1 - p)).astype(np.float32)
    missing = np.isnan(p)
    p[missing] = max(0.0, 1 - np.nansum(p)) / max(missing.sum(), 1)
    return np.log(np.maximum(p, _LEAST)).astype(np.float32)
