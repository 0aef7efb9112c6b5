"""The end of a run: which model is reported, where the report goes, and how to continue."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import time
from pathlib import Path

from palm_jax.training import distributed, messages
from palm_jax.training.best import BestCheckpoint
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.clock import RunClock
from palm_jax.training.evaluate import HeldOut
from palm_jax.training.metric_log import MetricLog
from palm_jax.training.metrics import in_group
from palm_jax.training.plan import Plan
from palm_jax.training.result import Reporter, TrainingResult
from palm_jax.training.resume import Restorer
from palm_jax.training.run import Run
from palm_jax.training.state import TrainState
from palm_jax.wording import shell_command

_LOGGER = logging.getLogger(__name__)
_STEPS = ('TRAIN_STEPS', 'loop.train.total_steps')  # bindings of the number of steps


@dataclasses.dataclass(frozen=True)
class Reported:
    """The state that a report is about.

    Attributes:
      state: the state.
      step: its step.
      checkpoint: directory of its checkpoint.
      group: how its metrics are named in the log: `validation/...`, or `best/...` for the best step's.
    """

    state: TrainState
    step: int
    checkpoint: Path
    group: str


def reported_state(
    state: TrainState, checkpoints: Checkpoints, best: BestCheckpoint | None, restorer: Restorer
) -> Reported:
    """Return the best state of a run that kept one, else its last state."""
    if best is None or best.step is None or best.path is None:
        step = int(state.step)
        return Reported(state, step, checkpoints.path(step), 'validation')
    return Reported(best.restore(restorer.target(state.frozen)), best.step, best.path, 'best')


@dataclasses.dataclass(frozen=True)
class Finish:
    """Ends a run: after a signal it says how to continue, after the last step it reports.

    Attributes:
      checkpoints: the run's checkpoints.
      best: the best checkpoint; None where the run has no best metric.
      restorer: restores the best state.
      held_out: held-out part of the data, for the reporter.
      reporter: measures and reports the model.
      plan: what was trained at what cost.
      log: metrics of the run; closed at the end.
      model_dir: directory of the run.
      run: the command that started the run.
    """

    checkpoints: Checkpoints
    best: BestCheckpoint | None
    restorer: Restorer
    held_out: HeldOut
    reporter: Reporter
    plan: Plan
    log: MetricLog
    model_dir: Path
    run: Run

    def end(self, state: TrainState, first_step: int, clock: RunClock) -> int:
        """End the run in a state, which is saved or being saved.

        Args:
          state: last state.
          first_step: step at which this process began; if it was the last one, the log has the final metrics already.
          clock: knows whether a signal stopped the run.

        Returns:
          The exit code.
        """
        self.checkpoints.wait()
        step = int(state.step)
        if clock.stop_requested and step < self.plan.total_steps:
            return self._interrupted(step, clock)
        reported = reported_state(state, self.checkpoints, self.best, self.restorer)
        if distributed.are_several():
            self._report_loss(reported)
        else:
            self._report(reported, step, is_logged=first_step == step)
        return 0

    def _interrupted(self, step: int, clock: RunClock) -> int:
        self.log.close()
        received = clock.received_signal
        assert received is not None, 'only a signal interrupts a run'
        _LOGGER.info('\n%s: saved step %s. Continue with\n  %s', received.name, f'{step:,}', self.run.command)
        return clock.exit_code

    def _report_loss(self, reported: Reported) -> None:
        """What several processes report: a report reads, writes and generates in one process."""
        loss = self.held_out.metrics(reported.state, reported.step)['loss'].value()
        _LOGGER.info(messages.of_several_processes(loss, reported.checkpoint, self.run.command))
        self.log.close()

    def _report(self, reported: Reported, last_step: int, is_logged: bool) -> None:
        inputs, seconds = self.held_out.inputs(reported.state, reported.step), time.monotonic() - self.run.start
        report = self.reporter(TrainingResult(inputs, self.plan, reported.step, seconds, reported.checkpoint))
        if not is_logged:
            self.log.write(last_step, in_group(reported.group, report.values()))
        self.log.close()
        report.write(self.model_dir)
        further = '' if self.run.is_part else continue_command(self.run.command, self.plan.total_steps)
        _LOGGER.info(report.text(self.model_dir, further))


def continue_command(command: str, total_steps: int) -> str:
    """Return the command that trains for twice as many steps.

    Args:
      command: command of this run, quoted for a shell. Changes that it accepted need not be accepted again.
      total_steps: number of steps of this run.
    """
    words = shlex.split(command)
    name = next((name for name in _STEPS if any(_sets(word, name) for word in words)), _STEPS[0])
    kept: list[str] = []
    for word in words:
        if kept and kept[-1] == f'--gin.{name}':  # the value is a word of its own
            kept.pop()
        elif (not _sets(word, name) and word != '--accept_changes') or word == f'--gin.{name}':
            kept.append(word)
    return shell_command([*kept, f'--gin.{name}={2 * total_steps}'])


def _sets(word: str, name: str) -> bool:
    """Return whether a word of a command sets a binding."""
    return word.partition('=')[0].strip() == f'--gin.{name}'
