"""What a run logs: metrics to all of its writers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from palm_jax.training import distributed
from palm_jax.training.writers import Writer


class MetricLog:
    """Writes metrics to several writers as to one.

    Args:
      writers: where metrics go; of several processes, the first writes.
      model_dir: directory of the run.
      config: gin text of the run, for the record.
      step: step at which the log begins; what an interrupted run wrote for later steps is dropped.
    """

    def __init__(self, writers: Sequence[Writer], model_dir: Path, config: str, step: int):
        self._writers = writers if distributed.is_first() else ()
        self._model_dir, self._config = model_dir, config
        self._open(step)

    def _open(self, step: int) -> None:
        for writer in self._writers:
            writer.open(self._model_dir, step, self._config)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars of a step by name; names read `train/loss`."""
        for writer in self._writers:
            writer.write(step, dict(values))

    def rewind(self, step: int) -> None:
        """Drop what was written for later steps and go on from a step."""
        self.close()
        self._open(step)

    def close(self) -> None:
        """Flush and close all writers."""
        for writer in self._writers:
            writer.close()
