"""The likeliest tokens of a teacher as features of text that a model learns to generate, and their file."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from palm_jax.bounds import Above, checked
from palm_jax.data.supervised.examples import Batch
from palm_jax.data.vocabulary.vocabularies import Vocabulary
from palm_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)
_FIELDS = ('keys', 'starts', 'ids', 'log_p', 'temperature', 'vocabulary')  # arrays of the file


def row_keys(features: Batch) -> list[bytes]:
    """Return a SHA-256 of the tokens and the weights of each row, without its padding."""
    tokens = [features[f'decoder_{name}'] for name in ('input_tokens', 'target_tokens', 'loss_weights')]
    ends = tokens[1].shape[1] - (tokens[1] != 0)[:, ::-1].argmax(axis=1)
    return [
        hashlib.sha256(b''.join(np.ascontiguousarray(x[row, :end], np.int32).tobytes() for x in tokens)).digest()
        for row, end in enumerate(ends)
    ]


def write(
    path: Path, features: Batch, ids: np.ndarray, log_p: np.ndarray, temperature: float, vocabulary: Vocabulary
) -> None:
    """Write what a teacher predicts.

    Args:
      path: `.npz` file.
      features: features [E, L] of the rows that it read.
      ids: likeliest ids of each position with a weight, int32 [n, k], row by row.
      log_p: their log-probabilities at the temperature, float32 [n, k].
      temperature: T of the teacher's softmax.
      vocabulary: vocabulary of the ids.
    """
    counts = np.count_nonzero(features['decoder_loss_weights'], axis=1)
    np.savez_compressed(
        path,
        keys=np.frombuffer(b''.join(row_keys(features)), np.uint8).reshape(-1, 32),
        starts=np.concatenate([[0], np.cumsum(counts)]),
        ids=ids,
        log_p=log_p,
        temperature=temperature,
        vocabulary=vocabulary.fingerprint,
    )


@checked
@dataclasses.dataclass(frozen=True)
class TokenTeacher:
    """The likeliest tokens of a teacher as features of training rows; see `TextToText.further`.

    The features are `decoder_teacher_ids`, int32, and `decoder_teacher_log_p`, float32 [E, L, k], and
    `decoder_teacher_weights`, float32 [E, L], 1 where the teacher has predicted the target.

    Attributes:
      file: what `palm-jax teach` wrote, for the same table, templates and lengths.
      temperature: temperature T of the distillation, which the file must have.
    """

    reads: ClassVar = 'tokens'
    otherwise: ClassVar = 'take --gin_file=gin/methods/distil.gin'
    file: str | None = None
    temperature: Annotated[float, Above(0)] = 2.0

    def features(self, features: Batch, vocabulary: Vocabulary) -> Batch:
        """Return the features of rows.

        Raises:
          UserError: the file is missing, of another vocabulary or temperature, or of other rows.
        """
        if self.file is None:
            raise UserError('TEACHER_FILE is not set: name what palm-jax teach has written with the teacher.')
        if 'decoder_segment_ids' in features:
            raise UserError('PACK puts several examples into a row, which a teacher has read one by one: leave it out.')
        try:
            with np.load(self.file) as file:
                found = {name: file[name] for name in _FIELDS}
        except Exception:  # whatever a damaged archive, or another one, raises
            raise UserError(f'TEACHER_FILE = {self.file!r} cannot be read: is it what palm-jax teach wrote?') from None
        self._check(found, vocabulary)
        rows = {key.tobytes(): row for row, key in enumerate(found['keys'])}
        return self._aligned(features, found, [rows.get(key) for key in row_keys(features)])

    def _check(self, found: Batch, vocabulary: Vocabulary) -> None:
        if str(found['vocabulary']) != vocabulary.fingerprint:
            raise UserError(
                f'TEACHER_FILE = {self.file!r} is of a teacher with another vocabulary, whose tokens are not those of '
                'this model. Let the teacher write answers with palm-jax infer, and train on them.'
            )
        if float(found['temperature']) != self.temperature:
            raise UserError(
                f'TEACHER_FILE = {self.file!r} was written with --temperature={float(found["temperature"]):g}: set '
                f'--gin.DISTIL_TEMPERATURE={float(found["temperature"]):g}.'
            )

    def _aligned(self, features: Batch, found: Batch, rows: Sequence[int | None]) -> Batch:
        weights = features['decoder_loss_weights'] != 0
        shape, k = weights.shape, found['ids'].shape[1]
        ids, log_p = np.zeros((*shape, k), np.int32), np.full((*shape, k), -np.log(k), np.float32)
        taught = np.zeros(shape, np.float32)
        for row, place in enumerate(rows):
            if place is not None:
                part, positions = slice(*found['starts'][place : place + 2]), np.flatnonzero(weights[row])
                ids[row, positions], log_p[row, positions] = found['ids'][part], found['log_p'][part]
                taught[row, positions] = 1
        if not taught.any():
            raise UserError(
                f'TEACHER_FILE = {self.file!r} has none of the training rows: write it with the same TRAIN_FILES, '
                'templates and TASK_FEATURE_LENGTHS.'
            )
        if missing := sum(place is None for place in rows):
            _LOGGER.warning(f'{missing / len(rows):.1%} of the training rows have no prediction of the teacher')
        return {'decoder_teacher_ids': ids, 'decoder_teacher_log_p': log_p, 'decoder_teacher_weights': taught}
