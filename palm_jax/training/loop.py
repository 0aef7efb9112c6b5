"""The training loop, the function that gin binds. It reads from top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

from palm_jax.errors import UserError
from palm_jax.models.palm import PaLM
from palm_jax.partitioning import Layout, shard_batch
from palm_jax.peft.method import Adapted, Method
from palm_jax.peft.trainable import Trainable
from palm_jax.training import flops
from palm_jax.training import metrics as metrics_lib
from palm_jax.training.batch_sizes import BatchSizes, Ramp
from palm_jax.training.checkpoints import Checkpoints, fingerprint, restore_params
from palm_jax.training.evaluate import evaluate
from palm_jax.training.finished import Finished, Report
from palm_jax.training.interrupts import Interrupts
from palm_jax.training.losses import LanguageModelLoss
from palm_jax.training.optimizers import Optimizer
from palm_jax.training.plan import Plan
from palm_jax.training.pretrained import VOCABULARY_FILE
from palm_jax.training.progress import Progress
from palm_jax.training.state import TrainState, init_state, unbox
from palm_jax.training.step import eval_step, train_step
from palm_jax.training.writers import Jsonl, TensorBoard, Writer


class Vocabulary(Protocol):
    """What the loop needs of the vocabulary, for the record."""

    size: int
    fingerprint: str

    def save(self, path: Path) -> None:
        """Writes its file, where it has one."""


class Data(Protocol):
    """What the loop needs of the data: batches by number. Reporters need more, see theirs."""

    length: int
    vocabulary: Vocabulary
    num_sequences: int
    is_ready: bool

    def batch(self, first: int, size: int) -> Mapping[str, np.ndarray]:
        """Training sequences first, first + 1, ...: features [size, L]."""

    def validation(self, size: int) -> Iterator[Mapping[str, np.ndarray]]:
        """The held-out part."""

    def example(self) -> str:
        """The first training example, for people."""


@dataclasses.dataclass(frozen=True)
class Periods:
    """How often things happen, in steps.

    Attributes:
      log: metrics are written.
      evaluate: validation loss on `evaluate_batches` batches; the end evaluates on all.
      checkpoint: the state is saved; the end saves too.
      evaluate_batches: see `evaluate`.
      keep: so many of the newest checkpoints stay.
    """

    log: int = 10
    evaluate: int = 500
    checkpoint: int = 500
    evaluate_batches: int = 16
    keep: int = 2

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise UserError(f'loop.Periods.{field.name} is {getattr(self, field.name)}; it must be at least 1.')


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
    reporter: Callable[[Finished], Report],
    loss: Callable[..., Any] = LanguageModelLoss(),
    layout: Layout = Layout(),
    periods: Periods = Periods(),
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
    run, directory = run or Run(), Path(model_dir)
    mesh, batch_sizes = layout.mesh(), BatchSizes.of(batch_size)
    model, selection = adapt(model, methods, trainable, trainable_layers)
    _check(model, data, batch_sizes, layout, mesh, microbatches, total_steps)

    about = {'vocabulary': data.vocabulary.fingerprint, 'architecture': dataclasses.asdict(model.arch)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        stack.enter_context(nn.logical_axis_rules(layout.rules))
        # Shapes before arrays: the state is born in its place, on any mesh.
        init = functools.partial(init_state, model, optimizer, trainable=selection)
        boxed = jax.eval_shape(init, jax.random.key(seed))
        frozen_layers = selection.frozen_layers(boxed.params, model.arch.num_layers)
        plan = Plan(model, boxed, layout, dict(mesh.shape), batch_sizes, data.length, total_steps, frozen_layers)
        layout.check((boxed.params, boxed.frozen), plan.axis_sizes)
        shardings = layout.shardings(boxed, mesh)
        place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
        target = jax.tree.map(place, unbox(boxed), shardings)
        print(plan.summary(data.num_sequences), f'\nMODEL_DIR  {directory}\n{flops.FORMULA}', flush=True)

        def begin() -> TrainState:
            fresh = jax.jit(lambda rng: unbox(init(rng)), out_shardings=shardings)(jax.random.key(seed))
            if initial_checkpoint is None:
                return fresh
            print(f'starting from the parameters of {initial_checkpoint}', flush=True)
            return _start_from(initial_checkpoint, fresh, shardings, model, selection, optimizer, about)

        # Start from (1) this model_dir's newest step, else (2) an initial checkpoint, else (3) scratch.
        # Checkpoints leave out what is frozen of an initial checkpoint, so that is read for (1), too.
        state, unlogged = None, None
        if initial_checkpoint is not None and jax.tree.leaves(target.frozen):
            state = begin()
            about['base'] = fingerprint(state.frozen)
            target = dataclasses.replace(target, frozen=state.frozen)
        saved = Checkpoints(directory / 'checkpoints', periods.keep, about)
        checkpoints = stack.enter_context(contextlib.closing(saved))
        if checkpoints.latest is not None:
            state, unlogged = checkpoints.restore(target)
            print(f'continuing from step {int(state.step):,} of {checkpoints.path(int(state.step))}', flush=True)
        elif state is None:
            state = begin()
        data.vocabulary.save(directory / VOCABULARY_FILE)
        model = model.freeze_layers(frozen_layers)

        first_step = int(state.step)
        if first_step < total_steps:
            _warn_if_slow(plan, first_step)
        for writer in writers:
            writer.open(directory, first_step, run.config)

        step_fn = jax.jit(
            functools.partial(train_step, model=model, loss=loss, optimizer=optimizer, microbatches=microbatches),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        eval_fn = jax.jit(functools.partial(eval_step, model=model, loss=loss))
        run_rng = jax.random.fold_in(jax.random.key(seed), 1)

        with Interrupts() as interrupts, Progress(first_step, total_steps, plan.flops_per_token) as progress:
            pending: list[metrics_lib.Metrics] = []
            for step in range(first_step, total_steps):
                size = batch_sizes.at(step)
                batch = shard_batch(data.batch(batch_sizes.before(step), size), mesh)
                state, metrics = step_fn(state, batch, run_rng)
                if pending:
                    jax.block_until_ready(pending[-1])  # one step ahead of the device, not more
                pending.append(metrics)
                done = step + 1
                progress.step(size * data.length)
                if done == first_step + 1:
                    jax.block_until_ready(metrics)
                    progress.say(f'first step done {time.monotonic() - run.start:.0f} s after the start')

                if done % periods.log == 0 or done == total_steps:
                    sums = metrics_lib.total(pending, unlogged)
                    values = {f'train/{name}': ratio.value() for name, ratio in sums.items()}
                    values |= {f'speed/{name}': value for name, value in progress.speed().items()}
                    _write(writers, done, values)
                    progress.show(**_terminal(values))
                    pending, unlogged = [], None
                    if not math.isfinite(values['train/loss']):
                        raise UserError(_diverged(done, checkpoints))

                if done % periods.evaluate == 0 and done < total_steps:
                    progress.pause()
                    batches = itertools.islice(data.validation(batch_sizes.at(step)), periods.evaluate_batches)
                    held_out = evaluate(eval_fn, state, batches, mesh)
                    _write(writers, done, {f'validation/{name}': ratio.value() for name, ratio in held_out.items()})
                    progress.show(validation=f'{held_out["loss"].value():.3f}')
                    progress.resume()

                if done % periods.checkpoint == 0 or done == total_steps or interrupts.received:
                    progress.pause()
                    unlogged, pending = metrics_lib.total(pending, unlogged), []
                    checkpoints.save(state, done, unlogged)
                    progress.resume()
                if interrupts.received:
                    break

        checkpoints.wait()
        if interrupts.received and int(state.step) < total_steps:
            _close(writers)
            print(f'\n{interrupts.received.name}: saved step {int(state.step):,}. Continue with\n  {run.command}')
            return interrupts.exit_code

        step = int(state.step)
        size = batch_sizes.at(step - 1)
        report = reporter(
            Finished(
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
                checkpoint=checkpoints.path(step),
            )
        )
        if first_step < total_steps:  # else it is written already
            _write(writers, step, report.values())
        _close(writers)
        report.write(directory)
        command = re.sub(r' --gin\.TRAIN_STEPS=\S+', '', run.command)
        print(report.text(directory, f'{command} --gin.TRAIN_STEPS={2 * total_steps}'), flush=True)
    return 0


ADAPTATION = ('methods', 'trainable', 'trainable_layers')  # what `adapt` takes of `train`'s arguments


def adapt(
    model: PaLM,
    methods: Sequence[Method] = (),
    trainable: Sequence[str] | None = None,
    trainable_layers: int | None = None,
) -> tuple[Adapted, Trainable]:
    """The model with its methods, and what of it is trained; arguments as of `train`."""
    adapted = Adapted(model, tuple(methods))
    if trainable is None and not methods:
        return adapted, Trainable(top_layers=trainable_layers)
    return adapted, Trainable((*(trainable or ()), *adapted.trainable), trainable_layers)


def _start_from(path, state: TrainState, shardings: TrainState, model: Adapted, selection, optimizer, about):
    """The state with another run's parameters and a fresh optimizer; the methods' and the head's begin as they do."""

    def begin(params: Any) -> TrainState:
        trained, frozen = selection.split(model.start(params))
        return TrainState(state.step, trained, optimizer.init(trained), frozen)

    params = restore_params(path, state.all_params, about, model.trainable)
    return jax.jit(begin, out_shardings=shardings)(params)


def _check(model, data, batch_sizes, layout, mesh, microbatches, total_steps) -> None:
    """Refuses what cannot run, before anything is computed."""
    if total_steps < 1:
        raise UserError(f'TRAIN_STEPS is {total_steps}; it must be at least 1.')
    if data.vocabulary.size > model.arch.vocab_size:
        raise UserError(
            f'The vocabulary has {data.vocabulary.size} ids, the model only {model.arch.vocab_size} rows. '
            f'Set --gin.VOCABULARY_SIZE={data.vocabulary.size}.'
        )
    for _, size in batch_sizes.ramp:
        if size % (microbatches * mesh.shape['data']):
            raise UserError(
                f'BATCH_SIZE = {size} does not divide into MICROBATCHES = {microbatches} '
                f'× data = {mesh.shape["data"]} device(s).'
            )


def _warn_if_slow(plan: Plan, first_step: int) -> None:
    """Says at once how long a run will take on a CPU, and what to run there instead."""
    if jax.default_backend() != 'cpu':
        return
    tokens = plan.total_tokens - plan.batch_sizes.before(first_step) * plan.length
    seconds = plan.flops_per_token * tokens / (0.6 * flops.measured_speed())
    print(f'expected   about {flops.duration(seconds)} on this CPU, by its matmul speed', flush=True)
    if seconds > 3600:
        print('           for a machine without an accelerator: --gin_file=gin/pretrain_tiny.gin (minutes)', flush=True)


def _write(writers: Sequence[Writer], step: int, values: dict[str, float]) -> None:
    for writer in writers:
        writer.write(step, values)


def _close(writers: Sequence[Writer]) -> None:
    for writer in writers:
        writer.close()


def _terminal(values: Mapping[str, float]) -> dict[str, str]:
    mfu = values.get('speed/mfu')
    return {
        'loss': f'{values["train/loss"]:.3f}',
        'tokens/s': f'{values["speed/tokens_per_second"]:,.0f}',
        'MFU': 'n/a' if mfu is None else f'{mfu:.1%}',
    }


def _diverged(step: int, checkpoints: Checkpoints) -> str:
    saved = 'none was saved' if checkpoints.latest is None else f'{checkpoints.path(checkpoints.latest)} is intact'
    return (
        f'The loss is no longer finite at step {step:,}. The last checkpoint before it: {saved}. '
        'Lower LEARNING_RATE or clip more (clip_norm), then continue.'
    )
