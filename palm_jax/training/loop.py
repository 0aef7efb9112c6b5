"""The training loop, the function that gin binds.

`train` builds the collaborators of a run; `Loop.run` calls them, in an order that is part of what a run guarantees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax

from palm_jax.bounds import AtLeast, Count, NotEmpty, Pattern, Seed, checked
from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.errors import UserError
from palm_jax.models.palm import PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.method import Method
from palm_jax.run_directory import RunDirectory
from palm_jax.training import device_memory, messages
from palm_jax.training.base_weights import BaseWeights
from palm_jax.training.batch_sizes import BatchSizes, Ramp
from palm_jax.training.best import BestCheckpoint, BestMetric
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.checks import check_attention, check_run
from palm_jax.training.clock import RunClock
from palm_jax.training.evaluate import HeldOut
from palm_jax.training.evaluations import Evaluations
from palm_jax.training.feed import Feed
from palm_jax.training.finish import Finish
from palm_jax.training.interfaces import Data
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.losses import LanguageModelLoss
from palm_jax.training.metric_log import MetricLog
from palm_jax.training.metric_window import MetricWindow
from palm_jax.training.metrics import Metrics, in_group
from palm_jax.training.optimizers import Optimizer
from palm_jax.training.result import Reporter
from palm_jax.training.resume import Restorer
from palm_jax.training.rollback import Rollback, finish_interrupted
from palm_jax.training.run import Periods, Run
from palm_jax.training.saving import StateSaver, kept_files
from palm_jax.training.setup import Setup, adapt
from palm_jax.training.spikes import SpikeGuard, SpikeRule
from palm_jax.training.state import TrainState
from palm_jax.training.writers import Jsonl, TensorBoard, Writer

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Loop:
    """The collaborators of the steps of a run, each of which decides for itself what a step means to it.

    Attributes:
      feed: training batches by step.
      train_step: jitted; (donated state, batch, run_rng) to (state, metrics).
      run_rng: key from which all randomness of the steps is derived.
      window: metrics since the last log line.
      guard: detection of loss spikes.
      rollback: rewinds the run when there is one.
      evaluations: evaluation on the held-out part, and the best checkpoint.
      saver: saves the state.
      log: writers of the metrics.
      clock: progress, speed, hangs and requests to stop.
      periods: how often metrics are logged and states are saved.
      total_steps: step at which the run ends.
    """

    feed: Feed
    train_step: Callable[[TrainState, dict[str, jax.Array], jax.Array], tuple[TrainState, Metrics]]
    run_rng: jax.Array
    window: MetricWindow
    guard: SpikeGuard
    rollback: Rollback
    evaluations: Evaluations
    saver: StateSaver
    log: MetricLog
    clock: RunClock
    periods: Periods
    total_steps: int

    def run(self, state: TrainState) -> TrainState:
        """Take steps until the last one, a request to stop, or the end of patience; return the last state.

        The order is a guarantee: a spike is dealt with before its metrics are logged, and what is logged or is the
        best so far is so before the state is saved. A run that is killed between any two lines continues bit for bit.
        """
        step = first_step = int(state.step)
        clock, evaluations = self.clock, self.evaluations
        evaluations.check_metric(state)
        while step < self.total_steps and not evaluations.stalled and not clock.stop_requested:
            with self.saver.saves_on_error(state, step, in_all_processes=False):
                batch = self.feed.batch(step)
            state, metrics = self.train_step(state, batch, self.run_rng)
            self.window.add(metrics)
            self.guard.add(step, metrics)
            step += 1
            clock.step(step, batch['decoder_input_tokens'].size, metrics)
            ends = step == self.total_steps or clock.stop_requested

            if spike := self.guard.first_spike(everything=ends or self.periods.any_is_due(step)):
                state = self.rollback.before(spike, state)
                step = int(state.step)
                continue
            if step % self.periods.log == 0 or step == self.total_steps:
                self._log_window(step)
            if evaluations.is_due(step):
                with clock.paused():
                    self._evaluate(state, step)
            if step % self.periods.checkpoint == 0 or ends or evaluations.stalled:
                with clock.paused():
                    self.saver.save(state, step)
        if evaluations.stalled and step > first_step:
            clock.say(evaluations.stall_message(step))
        return state

    def _log_window(self, step: int) -> None:
        """Log the metrics since the last log line, and end a run that has diverged."""
        train = self.window.take()
        values = in_group('train', train) | in_group('speed', self.clock.speed())
        self.log.write(step, values)
        self.clock.show(**messages.in_short(values))
        if not math.isfinite(train['loss']):
            raise UserError(messages.diverged(step, self.saver.newest))

    def _evaluate(self, state: TrainState, step: int) -> None:
        """Evaluate, log, and keep the state if it is the best."""
        with self.saver.saves_on_error(state, step, in_all_processes=True):
            values = self.evaluations.measure(state, step)
        self.log.write(step, in_group('validation', values))
        self.clock.show(validation=f'{values["loss"]:.3f}')
        with self.saver.saves_on_error(state, step, in_all_processes=True, advice=messages.ANOTHER_METRIC):
            self.evaluations.offer(state, step, values)


@checked
def train(
    *,
    model_dir: Annotated[str, NotEmpty()],
    model: PaLM,
    data: Data,
    optimizer: Optimizer,
    total_steps: Annotated[int, AtLeast(1)],
    batch_size: Count | Ramp,
    reporter: Reporter,
    loss: Callable[..., Any] = LanguageModelLoss(),
    layout: MeshLayout = MeshLayout(),
    periods: Periods = Periods(),
    best: BestMetric | None = None,
    spikes: SpikeRule | None = None,
    microbatches: Annotated[int, AtLeast(1)] = 1,
    seed: Seed = 0,
    initial_checkpoint: str | None = None,
    loss_wrappers: Sequence[LossWrapper] = (),
    methods: Sequence[Method] = (),
    trainable: Sequence[Pattern] | None = None,
    trainable_layers: Count | None = None,
    base_weights: BaseWeights = 'stored',
    writers: Sequence[Writer] = (Jsonl(), TensorBoard()),
    run: Run | None = None,
) -> int:
    """Train a model from the state that `model_dir` holds, if any, to `total_steps`.

    Batches and random keys are functions of the seed and the step alone: a killed run continues bit for bit.

    Args:
      model_dir: directory for everything that the run leaves; a run in it is continued.
      model: the model to train.
      data: batches by number, see `Data`.
      optimizer: update rule with its learning-rate schedule.
      total_steps: step at which the run ends.
      batch_size: sequences per step, or a ramp of them, see `BatchSizes`.
      reporter: measures and reports the finished run, see `result.Reporter`.
      loss: sum and metrics of a batch, see `LanguageModelLoss`.
      loss_wrappers: wrappers of the loss in training, the innermost first; evaluation takes `loss` alone.
      layout: mesh, and which axes are split over it.
      periods: steps between log lines, evaluations and checkpoints.
      best: metric whose best checkpoint is kept and reported; may end a run early. None keeps none.
      spikes: loss-spike rule: on a spike, rewind and skip the batches around it; None disables it.
      microbatches: parts into which a batch is split, computed one after another.
      seed: seed for initialization and dropout.
      initial_checkpoint: checkpoint or MODEL_DIR to start from; the run's checkpoints name it as their base.
      methods: fine-tuning methods, attached to the model.
      trainable: regular expressions of further parameters to train; None is none with methods, and all without.
      trainable_layers: number of top layers to which training below `stack/` is restricted; None trains all.
      base_weights: how the linear maps that stay frozen are kept in memory: `stored`, in the dtype of the parameters;
        `int8`, with a scale for each output; `nf4`, 4 bits with a scale for 64 inputs (QLoRA, 2305.14314).
      writers: where metrics are written.
      run: the command, for the record.

    Returns:
      The exit code: 0, or 128 + signal when a signal ended the run early (the state is saved).
    """
    run, directory, mesh, batch_sizes = run or Run(), Path(model_dir), layout.mesh(), BatchSizes.of(batch_size)
    check_run(model, data, batch_sizes, mesh.shape['data'], microbatches, reporter, layout.schedule)
    adapted, trained = adapt(model, methods, trainable, trainable_layers)
    sizes = mesh.size, batch_size, data.length, total_steps
    setup = Setup.of(adapted, trained, optimizer, layout, *sizes, base_weights, loss_wrappers, microbatches)
    setup = setup.around(loss, data.blank)
    with layout.on(mesh), device_memory.advice_when_full(plan := setup.plan), contextlib.ExitStack() as stack:
        messages.introduce(plan, data, directory)  # an unusable held-out part is found before the first step
        check_attention(setup, loss, data)
        metadata = CheckpointMetadata.of_model(model.arch, data.vocabulary.fingerprint, data.labels, data.identity())
        teachers, metadata = setup.load_teachers(mesh, metadata)
        restorer = Restorer(setup, mesh, seed, initial_checkpoint, metadata)
        guard, files = SpikeGuard(spikes, directory), kept_files(run.config, data.vocabulary)
        checkpoints, kept = _open_checkpoints(directory, periods, best, restorer.metadata, guard, files, stack)
        restorer.check(checkpoints, run)
        restored = restorer.resume(checkpoints)
        run.keep(directory, data.vocabulary)
        guard.remember(restored.recent)
        first_step = int(restored.state.step)
        messages.warn_if_slow(plan, data, first_step, initial_checkpoint is None and not methods)
        log, window = MetricLog(writers, directory, run.config, first_step), MetricWindow(restored.sums)
        held_out = HeldOut(*setup.held_out_steps(mesh, loss), setup.model, data, mesh, batch_sizes)
        memory, agreed = functools.partial(device_memory.compare, plan), checkpoints.preemption_agreed
        clock = RunClock(first_step, total_steps, plan.step_flops_per_token, run.start, agreed, memory)
        loop = Loop(
            feed=Feed(data, batch_sizes, guard.offset, mesh),
            train_step=functools.partial(setup.train_step(mesh, loss, microbatches), **teachers),
            run_rng=jax.random.fold_in(jax.random.key(seed), 1),
            window=window,
            guard=guard,
            rollback=Rollback(guard, checkpoints, restorer, window, log, clock, batch_sizes, kept),
            evaluations=Evaluations(held_out, periods, first_step, total_steps, kept, reporter),
            saver=StateSaver(checkpoints, window, guard, run.command),
            log=log,
            clock=clock,
            periods=periods,
            total_steps=total_steps,
        )
        with clock:
            state = loop.run(restored.state)
        finish = Finish(checkpoints, kept, restorer, held_out, reporter, plan, log, directory, run)
        return finish.end(state, first_step, clock)


def _open_checkpoints(
    directory: Path,
    periods: Periods,
    best: BestMetric | None,
    metadata: CheckpointMetadata,
    guard: SpikeGuard,
    files: Mapping[str, bytes],
    stack: contextlib.ExitStack,
) -> tuple[Checkpoints, BestCheckpoint | None]:
    """The newest checkpoints of a run, and its best one, which `stack` closes; an interrupted rollback is finished."""
    of_run = RunDirectory(directory)
    shared: dict[str, Any] = {'files': files, 'skips': lambda: guard.records}
    newest = Checkpoints(of_run.checkpoints, periods.keep, metadata, periods.keep_every, periods.checkpoint, **shared)
    stack.enter_context(contextlib.closing(newest))
    kept = None
    if best is not None:
        if guard.rule is not None:
            shared['rewind_to'] = lambda: newest.due
        kept = BestCheckpoint(best, of_run.best_checkpoints, metadata, periods.evaluate, **shared)
        stack.enter_context(contextlib.closing(kept))
    if newest.latest is not None:
        guard.adopt(newest.metadata(newest.latest).skips)
    finish_interrupted(guard, [newest] if kept is None else [newest, kept])
    return newest, kept
