"""The training loop, the function that gin binds. It reads from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.errors import UserError
from palm_jax.models.palm import PaLM
from palm_jax.partitioning import MeshLayout, read_batch
from palm_jax.peft.method import Method
from palm_jax.run_directory import RunDirectory
from palm_jax.training import distributed, flops, messages
from palm_jax.training import metrics as metrics_lib
from palm_jax.training.batch_sizes import BatchSizes, Ramp
from palm_jax.training.best import BestCheckpoint, BestMetric
from palm_jax.training.checkpoints import Checkpoints, fingerprint
from palm_jax.training.evaluate import evaluate
from palm_jax.training.interfaces import Data
from palm_jax.training.interrupts import Interrupts
from palm_jax.training.losses import LanguageModelLoss
from palm_jax.training.optimizers import Optimizer
from palm_jax.training.progress import Progress
from palm_jax.training.result import Report, TrainingResult
from palm_jax.training.setup import Setup, adapt, replicated
from palm_jax.training.spikes import SpikeGuard, SpikeRule
from palm_jax.training.state import TrainState
from palm_jax.training.step import eval_step
from palm_jax.training.watchdog import Watchdog
from palm_jax.training.writers import Jsonl, TensorBoard, Writer


@dataclasses.dataclass(frozen=True)
class Periods:
    """How often things happen, in steps.

    Attributes:
      log: metrics are written.
      evaluate: validation loss on `evaluate_batches` batches; the end evaluates on all.
      checkpoint: the state is saved; the end saves too.
      evaluate_batches: see `evaluate`.
      keep: so many of the newest checkpoints stay.
      keep_every: besides those, every checkpoint whose step this divides; None: no others.
    """

    log: int = 10
    evaluate: int = 500
    checkpoint: int = 500
    evaluate_batches: int = 16
    keep: int = 2
    keep_every: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise UserError(f'loop.Periods.{field.name} is {value}; it must be at least 1.')


@dataclasses.dataclass(frozen=True)
class Run:
    """What the loop is told about the command that started it.

    Attributes:
      config: the resolved gin text.
      command: what was typed.
      start: when, by `time.monotonic`.
    """

    config: str = ''
    command: str = 'python -m palm_jax.train'
    start: float = dataclasses.field(default_factory=time.monotonic)


def train(
    *,
    model_dir: str,
    model: PaLM,
    data: Data,
    optimizer: Optimizer,
    total_steps: int,
    batch_size: int | Ramp,
    reporter: Callable[[TrainingResult], Report],
    loss: Callable[..., Any] = LanguageModelLoss(),
    layout: MeshLayout = MeshLayout(),
    periods: Periods = Periods(),
    best: BestMetric | None = None,
    spikes: SpikeRule | None = None,
    microbatches: int = 1,
    seed: int = 0,
    initial_checkpoint: str | None = None,
    methods: Sequence[Method] = (),
    trainable: Sequence[str] | None = None,
    trainable_layers: int | None = None,
    writers: Sequence[Writer] = (Jsonl(), TensorBoard()),
    run: Run | None = None,
) -> int:
    """Trains a model from wherever `model_dir` stands to `total_steps`.

    The run is a function of its arguments: batch k and dropout's key of step k depend on the
    seeds and on k only, so a run that was killed continues bit for bit.

    Args:
      model_dir: everything the run leaves behind; one that holds a run is continued.
      model: what is trained.
      data: batches by number, see `Data`.
      optimizer: the update rule with its schedule.
      total_steps: the run ends here.
      batch_size: sequences a step, or a ramp of them, see `BatchSizes`.
      reporter: measures the finished run.
      loss: sum and metrics of a batch, see `LanguageModelLoss`.
      layout: the mesh and what is split over it.
      periods: of logging, evaluation and saving.
      best: keeps the checkpoint of the best evaluation, which the report is then about; may end a run early.
      spikes: what a jump of the loss is: the run goes back and leaves out the batches around it; None looks for none.
      microbatches: parts of a batch that are worked through one after another.
      seed: of initialisation and dropout.
      initial_checkpoint: parameters to start from. What is frozen of them is not saved again:
        checkpoints hold the trained part, and name the base by its fingerprint.
      methods: of fine-tuning, attached to the model.
      trainable: regular expressions of the parameters that are trained besides those of the
        methods and the head; None is none where there are methods, else all.
      trainable_layers: of what is trained below `stack/`, only the last so many layers.
      writers: where metrics go.
      run: the command, for the record.

    Returns:
      The exit code: 0, or 128 + signal when a signal ended the run early (state is saved).
    """
    run, directory, files = run or Run(), Path(model_dir), RunDirectory(model_dir)
    mesh, batch_sizes = layout.mesh(), BatchSizes.of(batch_size)
    messages.check(model, data, batch_sizes, mesh.shape['data'], microbatches, total_steps)
    with_methods, selection = adapt(model, methods, trainable, trainable_layers)
    setup = Setup.of(with_methods, selection, optimizer, layout, mesh.size, batch_size, data.length, total_steps)
    plan, model = setup.plan, setup.model

    metadata = CheckpointMetadata.of_model(model.arch, data.vocabulary.fingerprint, data.labels)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        stack.enter_context(nn.logical_axis_rules(layout.rules))
        target = setup.target(mesh)
        print(plan.summary(data.num_sequences), f'\nMODEL_DIR  {directory}\n{flops.FORMULA}', flush=True)
        begin = functools.partial(setup.begin, mesh, seed, initial_checkpoint, metadata)

        # Start from (1) this model_dir's newest step, else (2) an initial checkpoint, else (3) scratch.
        # Checkpoints leave out what is frozen of an initial checkpoint, so that is read for (1), too.
        state, unlogged, recent = None, None, None
        if initial_checkpoint is not None and jax.tree.leaves(target.frozen):
            state = begin()
            metadata = dataclasses.replace(metadata, base=fingerprint(state.frozen))
            target = dataclasses.replace(target, frozen=state.frozen)
        saved = Checkpoints(files.checkpoints, periods.keep, metadata, periods.keep_every, periods.checkpoint)
        checkpoints = stack.enter_context(contextlib.closing(saved))
        leader = None
        if best is not None:
            leader = stack.enter_context(
                contextlib.closing(BestCheckpoint(best, files.best_checkpoints, metadata, periods.evaluate))
            )
        if checkpoints.latest is not None:
            state, unlogged = checkpoints.restore(target)
            recent = checkpoints.metadata(checkpoints.latest).recent
            print(f'continuing from step {int(state.step):,} of {checkpoints.path(int(state.step))}', flush=True)
        elif state is None:
            state = begin()
        if distributed.is_first():
            data.vocabulary.save(directory)

        first_step = int(state.step)
        if first_step < total_steps:
            messages.warn_if_slow(plan, first_step)
        writers = writers if distributed.is_first() else ()
        for writer in writers:
            writer.open(directory, first_step, run.config)

        step_fn = setup.step(mesh, loss, microbatches)
        eval_fn = jax.jit(functools.partial(eval_step, model=model, loss=loss), out_shardings=replicated(mesh))
        run_rng = jax.random.fold_in(jax.random.key(seed), 1)

        def finished(state: TrainState, step: int, checkpoint: Path) -> TrainingResult:
            size = batch_sizes.at(step - 1)
            return TrainingResult(
                model=model,
                state=state,
                data=data,
                mesh=mesh,
                plan=plan,
                step=step,
                seconds=time.monotonic() - run.start,
                batch_size=size,
                sequences_seen=batch_sizes.before(step),
                evaluate=lambda: evaluate(eval_fn, state, data.validation(size), mesh),
                checkpoint=checkpoint,
            )

        def held_out(state: TrainState, step: int) -> dict[str, float]:
            batches = data.validation(batch_sizes.at(step - 1))
            if best is None:  # which is not chosen by a sample
                batches = itertools.islice(batches, periods.evaluate_batches)
            values = {f'validation/{k}': v.value() for k, v in evaluate(eval_fn, state, batches, mesh).items()}
            if best is not None and f'validation/{best.metric}' not in values:
                report = reporter(finished(state, step, checkpoints.path(step)))
                values |= {f'validation/{name}': value for name, value in report.values().items()}
            return values

        guard = SpikeGuard(spikes, directory, recent)

        def save(state: TrainState, step: int, unlogged: metrics_lib.Metrics | None) -> None:
            checkpoints.save(state, step, unlogged, guard.recent or None)

        def next_batch(step: int, size: int) -> dict[str, jax.Array]:
            first = batch_sizes.before(step) + guard.offset(step)
            try:
                return read_batch(lambda row, count: data.batch(first + row, count), size, mesh)
            except UserError as error:  # the data was lost on the way; the state was not
                if distributed.are_several():  # who would wait for the others, which have their data
                    raise
                save(state, step, metrics_lib.total(pending, unlogged) if pending else unlogged)
                checkpoints.wait()
                raise UserError(f'{error}\nStep {step:,} is saved. Continue with\n  {run.command}') from None

        def go_back(spike_step: int, reason: str) -> tuple[TrainState, metrics_lib.Metrics | None]:
            """To a checkpoint before a spike, from where the batches around it are left out."""
            checkpoints.wait()
            step = guard.back_from(spike_step, checkpoints.due)
            skip = guard.skip(step, spike_step, reason, batch_sizes)
            progress.say(messages.spike(skip))
            checkpoints.forget_after(step)
            for writer in writers:
                writer.close()
                writer.open(directory, step, run.config)
            progress.go_back(step)
            if step not in checkpoints.steps:
                guard.remember(None)
                return begin(), None
            guard.remember(checkpoints.metadata(step).recent)
            return checkpoints.restore(target, step)

        with (
            Interrupts() as interrupts,
            Progress(first_step, total_steps, plan.flops_per_token) as progress,
            Watchdog() as watchdog,
        ):
            pending: list[metrics_lib.Metrics] = []
            stalled = leader is not None and leader.has_stalled(first_step)
            step, is_told = first_step, False
            while step < total_steps and not stalled and not is_told:
                size = batch_sizes.at(step)
                batch = next_batch(step, size)
                state, metrics = step_fn(state, batch, run_rng)
                if pending:
                    jax.block_until_ready(pending[-1])  # one step ahead of the device, not more
                pending.append(metrics)
                guard.add(step, metrics)
                done = step + 1
                progress.step(batch['decoder_input_tokens'].size)
                if done == first_step + 1:
                    jax.block_until_ready(metrics)
                    progress.say(f'first step done {time.monotonic() - run.start:.0f} s after the start')
                watchdog.step(done)
                if checkpoints.preemption_agreed(done):
                    interrupts.take(signal.SIGTERM)

                is_due = {name: done % getattr(periods, name) == 0 for name in ('log', 'evaluate', 'checkpoint')}
                is_told = interrupts.received is not None  # a later signal waits for the next step
                is_last = done == total_steps or is_told
                spike = guard.first_spike(everything=any(is_due.values()) or is_last)
                if spike is not None:
                    watchdog.pause()
                    (state, unlogged), pending = go_back(*spike), []
                    step, is_told = int(state.step), False
                    continue
                step = done

                if is_due['log'] or done == total_steps:
                    sums = metrics_lib.total(pending, unlogged)
                    values = {f'train/{name}': ratio.value() for name, ratio in sums.items()}
                    values |= {f'speed/{name}': value for name, value in progress.speed().items()}
                    _write(writers, done, values)
                    progress.show(**messages.in_short(values))
                    pending, unlogged = [], None
                    if not math.isfinite(values['train/loss']):
                        raise UserError(messages.diverged(done, checkpoints))

                if (is_due['evaluate'] or done == total_steps) and (done < total_steps or leader):
                    progress.pause()
                    watchdog.pause()
                    values = held_out(state, done)
                    _write(writers, done, values)
                    progress.show(validation=f'{values["validation/loss"]:.3f}')
                    if leader:
                        try:
                            leader.offer(state, done, values)
                        except UserError as error:  # no such measure, which only an evaluation can tell
                            save(state, done, metrics_lib.total(pending, unlogged) if pending else unlogged)
                            checkpoints.wait()
                            raise UserError(f'{error}\n{messages.with_another_measure(done)}') from None
                        stalled = leader.has_stalled(done)
                    progress.resume()

                if is_due['checkpoint'] or is_last or stalled:
                    progress.pause()
                    watchdog.pause()
                    unlogged, pending = metrics_lib.total(pending, unlogged), []
                    save(state, done, unlogged)
                    progress.resume()
                if stalled:
                    progress.say(f'no better {best.metric} since step {leader.step:,}: the run ends at step {done:,}')

        checkpoints.wait()
        if is_told and int(state.step) < total_steps:
            _close(writers)
            print(f'\n{interrupts.received.name}: saved step {int(state.step):,}. Continue with\n  {run.command}')
            return interrupts.exit_code

        last_step, name = int(state.step), 'validation'
        step, checkpoint = last_step, checkpoints.path(last_step)
        if leader and leader.step is not None:
            at_best = leader.restore(dataclasses.replace(target, frozen=state.frozen))
            state, step, checkpoint, name = at_best, leader.step, leader.path, 'best'
        if distributed.are_several():  # a report reads, writes and samples by itself
            loss_there = finished(state, step, checkpoint).evaluate()['loss'].value()
            print(messages.of_several_processes(loss_there, checkpoint, run.command), flush=True)
            _close(writers)
            return 0
        report = reporter(finished(state, step, checkpoint))
        if first_step < last_step:  # else it is written already
            _write(writers, last_step, {f'{name}/{key}': value for key, value in report.values().items()})
        _close(writers)
        report.write(directory)
        command = re.sub(r' --gin\.TRAIN_STEPS=\S+', '', run.command)
        print(report.text(directory, f'{command} --gin.TRAIN_STEPS={2 * total_steps}'), flush=True)
    return 0


def _write(writers: Sequence[Writer], step: int, values: dict[str, float]) -> None:
    for writer in writers:
        writer.write(step, values)


def _close(writers: Sequence[Writer]) -> None:
    for writer in writers:
        writer.close()
