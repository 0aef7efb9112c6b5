"""The best checkpoint by a validation metric, and an early end when it no longer improves."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from palm_jax.bounds import AtLeast, checked
from palm_jax.checkpoint_metadata import BestScore, CheckpointMetadata
from palm_jax.errors import UserError, closest
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.state import TrainState

_SMALLER_IS_BETTER = re.compile(r'.*(loss|error|perplexity)|bits_per_byte')


def is_smaller_better(metric: str) -> bool:
    """Return whether a metric is better when smaller, by its name: losses, errors, perplexities, bits per byte."""
    return bool(_SMALLER_IS_BETTER.fullmatch(metric))


@checked
@dataclasses.dataclass(frozen=True)
class BestMetric:
    """Which evaluation's checkpoint is kept and reported.

    Attributes:
      metric: name of a validation metric: one of the loss (`loss`, `accuracy`), or one of the reporter (`macro_f1`,
        `entity_f1`, `bleu`, ...), which then measures at every evaluation. Losses, errors and perplexities are better
        when smaller, all others when larger.
      patience: number of evaluations without a better one after which the run ends; None goes on to the last step.
    """

    metric: str
    patience: Annotated[int, AtLeast(1)] | None = None

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether a value beats the best so far (None for the first); NaN beats nothing."""
        if than is None or math.isnan(value):
            return not math.isnan(value)
        return value < than if is_smaller_better(self.metric) else value > than


def best_metric(metric: str | None = None, patience: Annotated[int, AtLeast(1)] | None = None) -> BestMetric | None:
    """Return a `BestMetric`, or None where no metric is named."""
    if metric is None:
        if patience is not None:
            raise UserError('PATIENCE needs a metric: --gin.BEST_METRIC=loss, or accuracy, macro_f1, ...')
        return None
    return BestMetric(metric, patience)


class BestCheckpoint:
    """The best evaluation of a run so far, with its checkpoint.

    A resumed run finds the checkpoint; evaluations that it repeats change nothing.

    Args:
      best: metric that is compared.
      directory: directory of the checkpoint.
      metadata: metadata of the run's checkpoints.
      period: steps between two evaluations.
      files: contents of the run's files by name, a copy of which the checkpoint keeps.
      rewind_to: function that returns the steps to which the run may go back; the best checkpoint up to each is kept.
      skips: function that returns what the run has skipped so far, see `SpikeGuard.records`.

    Attributes:
      step: step of the best evaluation; None before the first.
    """

    def __init__(
        self,
        best: BestMetric,
        directory: Path,
        metadata: CheckpointMetadata,
        period: int,
        files: Mapping[str, bytes] = types.MappingProxyType({}),
        rewind_to: Callable[[], Sequence[int]] = tuple,
        skips: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ):
        self._best, self._period = best, period
        self._checkpoints = Checkpoints(directory, 1, metadata, files=files, rewind_to=rewind_to, skips=skips)
        self._find()

    def _find(self) -> None:
        """Take the newest intact checkpoint as the best one, which it was when it was saved."""
        while (step := self._checkpoints.latest) is not None and not self._checkpoints.is_intact(step):
            pass
        self.step: int | None = step
        self._value: float | None = None
        score = None if step is None else self._checkpoints.metadata(step).best
        if score is not None and score.metric == self._best.metric:
            self._value = score.value

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._best.metric

    @property
    def path(self) -> Path | None:
        """Directory of the best step's checkpoint; None before the first evaluation."""
        return None if self.step is None else self._checkpoints.path(self.step)

    def check(self, names: Collection[str]) -> None:
        """Refuse a metric that is not among those of the evaluation.

        Raises:
          UserError: with the closest name, and all of them.
        """
        if self.metric not in names:
            raise UserError(
                f'BEST_METRIC = {self.metric!r}: the evaluation does not compute this metric.'
                f'{closest(self.metric, names)} It computes: {", ".join(sorted(names))}.'
            )

    def offer(self, state: TrainState, step: int, values: Mapping[str, float]) -> None:
        """Save a state if its metric is the best so far.

        Args:
          state: state that was evaluated.
          step: its step.
          values: validation metrics by name.

        Raises:
          UserError: the metric is not among them.
        """
        self.check(values.keys())
        value = float(values[self.metric])
        if self._best.is_better(value, self._value) and (self.step is None or step > self.step):
            self._checkpoints.save(state, step, best=BestScore(self.metric, value))
            self.step, self._value = step, value

    def forget_after(self, step: int) -> None:
        """Go back to the best evaluation up to a step."""
        self._checkpoints.forget_after(step)
        self._find()

    def skips_by_step(self) -> dict[int, Sequence[Mapping[str, Any]] | None]:
        """See `Checkpoints.skips_by_step`."""
        return self._checkpoints.skips_by_step()

    def has_stalled(self, step: int) -> bool:
        """Whether the last `patience` evaluations up to a step were not better."""
        patience = self._best.patience
        return patience is not None and self.step is not None and step - self.step >= patience * self._period

    def restore(self, expected: TrainState) -> TrainState:
        """Return the state of the best evaluation; see `Checkpoints.restore`."""
        self._checkpoints.wait()
        return self._checkpoints.restore(expected)[0]

    def close(self) -> None:
        """Wait for pending saves, and close the checkpoints."""
        self._checkpoints.close()
