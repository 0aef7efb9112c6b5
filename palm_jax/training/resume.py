"""Where the state of a run comes from: its own checkpoint, an initial checkpoint, or scratch."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.metrics import Metrics
from palm_jax.training.run import Run
from palm_jax.training.setup import Setup
from palm_jax.training.state import TrainState

_LOGGER = logging.getLogger(__name__)
_SHOWN = 6  # differing arrays in a message


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state and what its checkpoint kept with it.

    Attributes:
      state: the whole state, on the mesh.
      sums: sums of the metrics since the last log line; None for none.
      recent: usual values of loss and gradient norm, see `SpikeGuard`; None for none.
    """

    state: TrainState
    sums: Metrics | None = None
    recent: Mapping[str, list[float]] | None = None


class Restorer:
    """Makes the state of a run from (1) its own checkpoint, else (2) an initial checkpoint, else (3) scratch.

    Checkpoints leave out the frozen parameters of an initial checkpoint, so those are read for (1), too.

    Args:
      setup: the adapted model, the optimizer and the state's shapes.
      mesh: devices of the run.
      seed: seed for initialization.
      initial_checkpoint: a MODEL_DIR or a checkpoint of another run; None starts from scratch.
      metadata: metadata of this run's checkpoints.

    Attributes:
      metadata: the same, with the fingerprint of the frozen parameters that the run's checkpoints leave out.
    """

    def __init__(
        self, setup: Setup, mesh: Mesh, seed: int, initial_checkpoint: str | None, metadata: CheckpointMetadata
    ):
        self._setup, self._mesh, self._seed, self._initial_checkpoint = setup, mesh, seed, initial_checkpoint
        self._target = setup.target(mesh)
        self._begun: TrainState | None = None
        self.metadata = metadata
        if initial_checkpoint is not None and jax.tree.leaves(self._target.frozen):
            self._begun, base = setup.begin(mesh, seed, initial_checkpoint, metadata)
            self.metadata = dataclasses.replace(metadata, base=base)

    def check(self, checkpoints: Checkpoints, run: Run) -> None:
        """Refuse what cannot be continued from the newest checkpoint, then what the run's record refuses.

        Nothing is written or restored.

        Args:
          checkpoints: the run's checkpoints.
          run: its record is checked.

        Raises:
          UserError: the checkpoint's state has other arrays than this run's, another vocabulary, other labels or
            another base; it is of a later step than the run's last one; or see `Record.check`.
        """
        assert self.metadata.data is not None, 'the loop says what it reads'
        if (step := checkpoints.latest) is None:
            run.check(None, self.metadata.data)
            return
        path, saved, total_steps = checkpoints.path(step), checkpoints.metadata(step), self._setup.plan.total_steps
        saved.check_compatible(self.metadata, path)
        model_dir = RunDirectory.of_checkpoint(path)
        if found := _other_arrays(checkpoints.saved_shapes(step), checkpoints.shapes_of(self._target)):
            raise UserError(
                f'This configuration cannot continue {path}, whose state has other arrays:\n{found}\n'
                f'Continue with the configuration that the run has, --gin_file={model_dir.config}, or name another '
                'directory: --gin.MODEL_DIR=...'
            )
        if step > total_steps:
            raise UserError(
                f'{model_dir} holds a run of {step:,} steps, more than TRAIN_STEPS = {total_steps:,}. To train it '
                f'further, name more: --gin.TRAIN_STEPS={2 * step}. To train for {total_steps:,} steps only, name '
                'another directory: --gin.MODEL_DIR=...'
            )
        run.check(saved.data, self.metadata.data)

    def begin(self) -> TrainState:
        """Return the state at step 0, from the initial checkpoint or from scratch."""
        return self._setup.begin(self._mesh, self._seed, self._initial_checkpoint, self.metadata)[0]

    def resume(self, checkpoints: Checkpoints) -> Restored:
        """Return the newest state of the run, else the state at step 0. To be called once."""
        begun, self._begun = self._begun, None  # the state will be donated: no second reference to it
        step, total_steps = checkpoints.latest, self._setup.plan.total_steps
        if step is None:
            return Restored(begun or self.begin())
        restored = self.restore(checkpoints, step, begun.frozen if begun else None)
        if int(restored.state.step) != step:
            raise UserError(
                f'{checkpoints.path(step)} holds the state of step {int(restored.state.step):,}: its folder was '
                'renamed or copied. Move it elsewhere and rerun the same command.'
            )
        if step == total_steps:
            _LOGGER.info('this run was finished at step %s; it is reported again', f'{step:,}')
        else:
            _LOGGER.info('continuing from step %s of %s', f'{step:,}', checkpoints.path(step))
        return restored

    def restore(self, checkpoints: Checkpoints, step: int, frozen: Any) -> Restored:
        """Return the state that a checkpoint holds.

        Args:
          checkpoints: the run's checkpoints, or those of its best step.
          step: a finished step; step 0 may be missing, it is computed.
          frozen: frozen parameters on the mesh, for checkpoints that leave them out.
        """
        if step not in checkpoints.steps:
            return Restored(self.begin())
        state, sums = checkpoints.restore(self.target(frozen), step)
        return Restored(state, sums, checkpoints.metadata(step).recent)

    def target(self, frozen: Any = None) -> TrainState:
        """Return shapes and shardings of the state, around frozen parameters that are on the mesh already, if any."""
        return self._target if frozen is None else dataclasses.replace(self._target, frozen=frozen)


def _other_arrays(there: Mapping[str, tuple[int, ...]], here: Mapping[str, tuple[int, ...]]) -> str:
    """Return which arrays of two states differ, in lines; empty if none do."""

    def show(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
        return f'{shapes[name]}' if name in shapes else 'missing'

    differing = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    lines = [f'  {name}: {show(there, name)} there, {show(here, name)} here' for name in differing[:_SHOWN]]
    rest = len(differing) - _SHOWN
    return '\n'.join([*lines, f'  and {rest} more'] if rest > 0 else lines)
