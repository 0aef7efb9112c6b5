"""Rewinding a run to a checkpoint before a loss spike."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from palm_jax.training import messages
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.best import BestCheckpoint
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.clock import RunClock
from palm_jax.training.metric_log import MetricLog
from palm_jax.training.metric_window import MetricWindow
from palm_jax.training.resume import Restorer
from palm_jax.training.spikes import Spike, SpikeGuard
from palm_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Rollback:
    """Everything that has to forget the steps after the one to which a run goes back.

    Attributes:
      guard: decides where to go back to and which batches to skip from there.
      checkpoints: loses the later steps.
      restorer: makes the earlier state.
      window: takes over the metrics that the earlier checkpoint kept.
      log: loses the later log lines.
      clock: continues from the earlier step.
      batch_sizes: sequences per step.
      best: goes back to the best evaluation up to the earlier step; None where the run keeps none.
    """

    guard: SpikeGuard
    checkpoints: Checkpoints
    restorer: Restorer
    window: MetricWindow
    log: MetricLog
    clock: RunClock
    batch_sizes: BatchSizes
    best: BestCheckpoint | None = None

    def before(self, spike: Spike, state: TrainState) -> TrainState:
        """Return the state of a checkpoint before a spike; the batches around the spike are skipped from there.

        Raises:
          UserError: it has happened too often.
        """
        with self.clock.paused():
            self.checkpoints.wait()
            step = self.guard.back_from(spike.step, self.checkpoints.due)
            while step in self.checkpoints.steps and not self.checkpoints.is_intact(step):
                step = self.guard.back_from(spike.step, self.checkpoints.due)
            skip = self.guard.skip(step, spike.step, spike.reason, self.batch_sizes)
            self.clock.say(messages.spike(skip))
            self.checkpoints.forget_after(step)
            if self.best is not None:
                self.best.forget_after(step)
            self.log.rewind(step)
            restored = self.restorer.restore(self.checkpoints, step, state.frozen)
            self.guard.remember(restored.recent)
            self.window.reset(restored.sums)
        self.clock.rewind(step)
        return restored.state


def finish_interrupted(guard: SpikeGuard, kept: Iterable[Checkpoints | BestCheckpoint]) -> None:
    """Delete the checkpoints that a rollback had still to delete when the process ended.

    Args:
      guard: knows what the run skips.
      kept: the run's checkpoints, and its best one.
    """
    for checkpoints in kept if guard.skips else ():
        stale = [step for step, skips in checkpoints.skips_by_step().items() if guard.is_stale(step, skips)]
        if stale:
            checkpoints.forget_after(min(stale) - 1)
