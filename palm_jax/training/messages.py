"""What the loop says: before a run, beside its progress bar, and when it cannot go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax

from palm_jax.errors import UserError
from palm_jax.training import flops
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.plan import Plan
from palm_jax.training.spikes import Skip


def check(model, data, batch_sizes, data_devices, microbatches, total_steps) -> None:
    """Refuses what cannot run, before anything is computed."""
    if data.vocabulary.size > model.arch.vocab_size:
        raise UserError(
            f'The vocabulary has {data.vocabulary.size} ids, the model only {model.arch.vocab_size} rows. '
            f'Set --gin.VOCABULARY_SIZE={data.vocabulary.size}.'
        )
    check_steps(batch_sizes, data.group, data_devices, microbatches, total_steps)


def check_steps(
    batch_sizes: BatchSizes, group: int | None, data_devices: int, microbatches: int, total_steps: int
) -> None:
    """Refuses a run without steps, and batches that do not divide; names those that would."""
    for name, value in (('TRAIN_STEPS', total_steps), ('MICROBATCHES', microbatches)):
        if value < 1:
            raise UserError(f'{name} is {value}; it must be at least 1.')
    parts = microbatches * data_devices
    for _, size in batch_sizes.ramp:
        if size % parts:
            would = [n for n in (size // parts * parts, (size // parts + 1) * parts) if n]
            raise UserError(
                f'BATCH_SIZE = {size} does not divide into MICROBATCHES = {microbatches} × data = {data_devices} '
                f'device(s); {" or ".join(map(str, would))} would do.'
            )
        if group is not None and (group < 1 or group % size):
            raise UserError(f'GROUP_BY_LENGTH is {group}; it must be BATCH_SIZE = {size} or a multiple of it.')


def warn_if_slow(plan: Plan, first_step: int) -> None:
    """Says at once how long a run will take on a CPU, and what to run there instead."""
    if jax.default_backend() != 'cpu':
        return
    tokens = plan.total_tokens - plan.batch_sizes.before(first_step) * plan.length
    seconds = plan.flops_per_token * tokens / (0.6 * flops.measured_speed())
    print(f'expected   about {flops.duration(seconds)} on this CPU, by its matmul speed', flush=True)
    if seconds > 3600:
        print('           for a machine without an accelerator: --gin_file=gin/pretrain_tiny.gin (minutes)', flush=True)


def in_short(values: Mapping[str, float]) -> dict[str, str]:
    mfu = values.get('speed/mfu')
    return {
        'loss': f'{values["train/loss"]:.3f}',
        'tokens/s': f'{values["speed/tokens_per_second"]:,.0f}',
        'MFU': 'n/a' if mfu is None else f'{mfu:.1%}',
    }


def diverged(step: int, checkpoints: Checkpoints) -> str:
    saved = 'none was saved' if checkpoints.latest is None else f'{checkpoints.path(checkpoints.latest)} is intact'
    return (
        f'The loss is no longer finite at step {step:,}. The last checkpoint before it: {saved}. '
        'Lower LEARNING_RATE or clip more (clip_norm), then continue.'
    )


def with_another_measure(step: int) -> str:
    return f'Step {step:,} is saved; the same command with another BEST_METRIC and --accept_changes goes on.'


def spike(skip: Skip) -> str:
    return (
        f'spike at step {skip.spike_step + 1:,}: {skip.reason}. Back to step {skip.step:,}, '
        f'from where {skip.sequences:,} sequences are left out'
    )


def of_several_processes(loss: float, checkpoint: Path, command: str) -> str:
    return (
        f'validation loss  {loss:.4f} nats\ncheckpoint  {checkpoint}\n'
        f'The whole report is made by one process, where the checkpoint lies: {command}'
    )
