"""Saving a run so that it can be resumed bit for bit, also when it cannot go on."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory, write_whole
from palm_jax.training import distributed
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.interfaces import Vocabulary
from palm_jax.training.metric_window import MetricWindow
from palm_jax.training.spikes import SpikeGuard
from palm_jax.training.state import TrainState


def kept_files(config: str, vocabulary: Vocabulary) -> dict[str, bytes]:
    """The run's files by name of which every checkpoint keeps a copy, see `run_directory.repair_files`.

    Args:
      config: the configuration in effect as gin text; empty if there is none.
      vocabulary: vocabulary of the run.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        vocabulary.save(run.path)
        if config:
            write_whole(run.config, config)
        return {file.name: file.read_bytes() for file in run.path.iterdir() if file.is_file()}


class StateSaver:
    """Saves the state together with what a resumed run needs in order to log and judge the same.

    Args:
      checkpoints: the run's checkpoints.
      window: metrics since the last log line; their sums are kept with the state.
      guard: spike detection; its recent values are kept with the state.
      command: the command that continues the run.
    """

    def __init__(self, checkpoints: Checkpoints, window: MetricWindow, guard: SpikeGuard, command: str):
        self._checkpoints, self._window, self._guard = checkpoints, window, guard
        self._advice = f'Continue with\n  {command}'

    def save(self, state: TrainState, step: int) -> None:
        """Start writing the state of a step; see `Checkpoints.save`."""
        self._checkpoints.save(state, step, self._window.sums(), self._guard.recent or None)

    @property
    def newest(self) -> Path | None:
        """Directory of the newest checkpoint, or None."""
        step = self._checkpoints.latest
        return None if step is None else self._checkpoints.path(step)

    @contextlib.contextmanager
    def saves_on_error(
        self, state: TrainState, step: int, in_all_processes: bool, advice: str | None = None
    ) -> Iterator[None]:
        """Save the state when the body raises a UserError, which is not the state's fault, and say so in the message.

        Args:
          state: state to save.
          step: step of the state.
          in_all_processes: whether all processes meet the error. All have to take part in saving, so where only some
            of several processes meet it, nothing is saved.
          advice: last sentence of the message: how to continue; None is the run's command.
        """
        try:
            yield
        except UserError as error:
            if distributed.are_several() and not in_all_processes:
                raise
            self.save(state, step)
            self._checkpoints.wait()
            raise UserError(f'{error}\nStep {step:,} is saved. {advice or self._advice}') from None
