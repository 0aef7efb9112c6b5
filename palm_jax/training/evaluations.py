"""Evaluation during a run: when, on how much, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping

from palm_jax.training.best import BestCheckpoint
from palm_jax.training.evaluate import HeldOut
from palm_jax.training.metrics import Metrics
from palm_jax.training.result import Reporter
from palm_jax.training.run import Periods
from palm_jax.training.state import TrainState


class Evaluations:
    """Evaluates on the held-out part, and keeps the best state where the run has a best metric.

    With a best metric, every evaluation reads the whole held-out part, as a choice should not rest on a sample, and
    the last step is evaluated, too. Without one, a few batches are read, and the end is left to the report.

    Args:
      held_out: evaluates a state.
      periods: steps between evaluations, and batches of one without a best metric.
      first_step: step at which this process begins.
      total_steps: step at which the run ends.
      best: the best checkpoint so far; None keeps none.
      reporter: measures the state where the best metric is not one of the loss.

    Attributes:
      stalled: whether the run has to end early, as no evaluation was better for as long as `patience` allows.
    """

    def __init__(
        self,
        held_out: HeldOut,
        periods: Periods,
        first_step: int,
        total_steps: int,
        best: BestCheckpoint | None,
        reporter: Reporter,
    ):
        self._held_out, self._periods, self._total_steps = held_out, periods, total_steps
        self._best, self._reporter = best, reporter
        self._is_of_report = False  # whether the best metric is; the first evaluation shows it at the latest
        self.stalled = best is not None and best.has_stalled(first_step)

    def check_metric(self, state: TrainState) -> None:
        """Refuse a best metric that no evaluation computes, before the first step.

        Raises:
          UserError: with the metrics that exist.
        """
        if self._best is None:
            return
        of_loss = self._held_out.metric_names(state)
        names_of = getattr(self._reporter, 'metric_names', None)  # which a reporter of the user may lack
        of_reporter = None if names_of is None else names_of(self._held_out.data)
        self._is_of_report = self._best.metric not in of_loss
        if self._is_of_report and of_reporter is not None:
            self._best.check({*of_loss, *of_reporter})

    def is_due(self, step: int) -> bool:
        """Whether the state after `step` steps is to be evaluated."""
        if step == self._total_steps:
            return self._best is not None
        return step % self._periods.evaluate == 0

    def measure(self, state: TrainState, step: int) -> dict[str, float]:
        """Metrics of the held-out part by name."""
        if self._best is None:
            return _values(self._held_out.metrics(state, step, self._periods.evaluate_batches))
        inputs = self._held_out.inputs(state, step)
        measured = self._reporter.measure(inputs).metrics if self._is_of_report else {}
        values = _values(inputs.evaluate())
        if self._best.metric not in values and not self._is_of_report:
            measured, self._is_of_report = self._reporter.measure(inputs).metrics, True
        return values | dict(measured)

    def offer(self, state: TrainState, step: int, values: Mapping[str, float]) -> None:
        """Keep a state that is the best so far.

        Raises:
          UserError: the evaluation lacks the best metric.
        """
        if self._best is not None:
            self._best.offer(state, step, values)
            self.stalled = self._best.has_stalled(step)

    def stall_message(self, step: int) -> str:
        """Why the run ends early at a step."""
        assert self._best is not None, 'only a run with a best metric stalls'
        return f'no better {self._best.metric} since step {self._best.step:,}: the run ends at step {step:,}'


def _values(metrics: Metrics) -> dict[str, float]:
    return {name: ratio.value() for name, ratio in metrics.items()}
