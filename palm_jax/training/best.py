"""The best checkpoint by a measure, and an early end when nothing gets better."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path

from palm_jax.checkpoint_metadata import BestScore, CheckpointMetadata
from palm_jax.errors import UserError, closest
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.state import TrainState

_SMALLER_IS_BETTER = re.compile(r'.*(loss|error|perplexity)')


@dataclasses.dataclass(frozen=True)
class BestMetric:
    """Which evaluation's checkpoint is kept and reported.

    Attributes:
      measure: of the held-out part, one that the loss has (`loss`, `accuracy`) or that the report
        has (`macro_f1`, `entity_f1`, `bleu`, ...), which then is made at every evaluation. Losses,
        errors and perplexities are better when smaller, all others when larger.
      patience: the run ends after so many evaluations without a better one; None: at its last step.
    """

    metric: str
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise UserError(f'PATIENCE is {self.patience}; it must be at least 1 evaluation, or None.')

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether a value beats the best so far; a value that is no number beats nothing."""
        if than is None or math.isnan(value):
            return not math.isnan(value)
        return value < than if _SMALLER_IS_BETTER.fullmatch(self.metric) else value > than


def best_metric(metric: str | None = None, patience: int | None = None) -> BestMetric | None:
    """`Best`, or None where no measure is named."""
    if metric is None:
        if patience is not None:
            raise UserError('PATIENCE needs a measure: --gin.BEST_METRIC=loss, or accuracy, macro_f1, ...')
        return None
    return BestMetric(metric, patience)


class BestCheckpoint:
    """The best evaluation of a run so far, with its checkpoint.

    A resumed run finds it where it lay; evaluations since are made again and change nothing.

    Args:
      best: what is better.
      directory: where its checkpoint lies.
      metadata: description of the run, see `Checkpoints`.
      period: steps between two evaluations.
    """

    def __init__(self, best: BestMetric, directory: Path, metadata: CheckpointMetadata, period: int):
        self._best, self._period = best, period
        self._checkpoints = Checkpoints(directory, 1, metadata)
        self.step, self._value = self._checkpoints.latest, None
        if self.step is not None:
            score = self._checkpoints.metadata(self.step).best
            if score is not None and score.metric == best.metric:
                self._value = score.value

    @property
    def path(self) -> Path:
        """Where the checkpoint lies."""
        return self._checkpoints.path(self.step)

    def offer(self, state: TrainState, step: int, values: Mapping[str, float]) -> None:
        """Keeps the state where its measure is the best so far; values are named `validation/...`."""
        names = [name.removeprefix('validation/') for name in values]
        if self._best.metric not in names:
            raise UserError(
                f'BEST_METRIC = {self._best.metric!r}: the evaluation has no such measure.'
                f'{closest(self._best.metric, names)} It has: {", ".join(sorted(names))}.'
            )
        value = float(values[f'validation/{self._best.metric}'])
        if self._best.is_better(value, self._value) and (self.step is None or step > self.step):
            self._checkpoints.save(state, step, best=BestScore(self._best.metric, value))
            self.step, self._value = step, value

    def has_stalled(self, step: int) -> bool:
        """Whether patience is at its end."""
        patience = self._best.patience
        return patience is not None and self.step is not None and step - self.step >= patience * self._period

    def restore(self, expected: TrainState) -> TrainState:
        """The state of the best evaluation; see `Checkpoints.restore`."""
        self._checkpoints.wait()
        return self._checkpoints.restore(expected)[0]

    def close(self) -> None:
        """Waits and lets go."""
        self._checkpoints.close()
