"""A trained model whose predictions another one learns from, computed in the steps of the other's training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from palm_jax.checkpoint_metadata import CheckpointMetadata, read_metadata
from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture
from palm_jax.models.palm import PaLM
from palm_jax.run_directory import find_checkpoint
from palm_jax.training import platform_choices, pretrained
from palm_jax.training.initial_parameters import check_params, fingerprint, restore_params

_BINDING = 'TEACHER_CHECKPOINT_PATH'


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The parameters of a finished run, which stay as they are.

    They are read when a run begins and when it is continued, are placed on the mesh by the run's own rules, and are not
    saved with it: checkpoints keep their fingerprint, and a run is not continued with another teacher. The teacher may
    be of any size; its vocabulary must be that of the run.

    Attributes:
      path: checkpoint or MODEL_DIR of the teacher, which holds all parameters.
    """

    path: str | None = None

    def model(self, like: Architecture) -> PaLM:
        """Return the teacher's model, without a head and without dropout.

        Args:
          like: architecture of the student, whose compute dtype the teacher has, too.

        Raises:
          UserError: there is no checkpoint.
        """
        arch = pretrained.architecture(str(self._checkpoint), dtype=like.dtype)
        return PaLM(platform_choices.resolve(arch, jax.default_backend()))

    def shapes(self, like: Architecture) -> Any:
        """Return the shapes of the parameters, boxed with their logical axes; see `model`."""
        model = self.model(like)
        init = lambda rng: model.init(rng, jnp.zeros((1, 8), jnp.int32), method='init_all')['params']  # noqa: E731
        return jax.eval_shape(init, jax.random.key(0))

    def load(self, target: Any, run: CheckpointMetadata) -> Any:
        """Return the parameters.

        Args:
          target: their shapes and shardings, see `shapes`.
          run: metadata of the run that learns from them.

        Raises:
          UserError: the checkpoint is damaged, lacks parameters, or has another vocabulary.
        """
        checkpoint = self._check_vocabulary(run)
        return restore_params(checkpoint, target, run)

    def check(self, shapes: Any, run: CheckpointMetadata) -> None:
        """Refuse what `load` refuses, except damage, from the checkpoint's metadata alone.

        Args:
          shapes: shapes of the parameters, not boxed.
          run: metadata of the run that learns from them.

        Raises:
          UserError: the checkpoint lacks parameters, or has another vocabulary.
        """
        check_params(self._check_vocabulary(run), shapes, run)

    def _check_vocabulary(self, run: CheckpointMetadata) -> Path:
        """Return the checkpoint, whose vocabulary is that of the run."""
        checkpoint = self._checkpoint
        vocabulary = read_metadata(checkpoint).vocabulary
        if vocabulary != run.vocabulary:
            raise UserError(
                f'{_BINDING} = {self.path!r} has the vocabulary {vocabulary}, but this run has {run.vocabulary}: the '
                'teacher would predict other pieces of text. Let it write answers instead, palm-jax infer --gin_file='
                f'{self.path}/config.gin --input=..., and train on those.'
            )
        return checkpoint

    @property
    def _checkpoint(self) -> Path:
        if self.path is None:
            raise UserError(f'{_BINDING} is not set: name the run of the teacher, --gin.{_BINDING}=runs/large')
        return find_checkpoint(self.path, _BINDING)


def fingerprint_of(teachers: dict[str, Any]) -> str | None:
    """Return a hash of the parameters of all teachers of a run, by path; None without any."""
    return '+'.join(fingerprint(params) for _, params in sorted(teachers.items())) or None
