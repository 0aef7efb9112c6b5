"""Messages of the loop: before a run, beside its progress bar, and when it cannot go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from palm_jax.training import flops
from palm_jax.training.checks import batches_of_groups
from palm_jax.training.interfaces import Data
from palm_jax.training.plan import Plan
from palm_jax.training.spikes import Skip
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)

_LONG, _TINY = 3600, 5_000_000  # seconds, parameters
ANOTHER_METRIC = 'Run the same command with another BEST_METRIC and --accept_changes to continue.'


def introduce(plan: Plan, data: Data, directory: Path) -> None:
    """Log a run in numbers, and its data, of which both parts are read and checked.

    Raises:
      UserError: see `Data.describe`.
    """
    summary = plan.summary(data.num_sequences, mean_length(data, plan.batch_sizes.at(0)))
    _LOGGER.info('%s\nMODEL_DIR  %s\n%s', summary, directory, flops.FORMULA)
    _LOGGER.info(data.describe())


def warn_if_slow(plan: Plan, data: Data, first_step: int, is_from_scratch: bool) -> None:
    """Log the expected duration of a run on a CPU and, if that is long, what makes it shorter.

    Args:
      plan: the run.
      data: its data, of which some batches are read for their length.
      first_step: step at which this process begins.
      is_from_scratch: whether the run pretrains a model, so that a smaller one may do.
    """
    if jax.default_backend() != 'cpu' or first_step >= plan.total_steps:
        return
    length = mean_length(data, plan.batch_sizes.at(first_step))
    sequences = plan.batch_sizes.before(plan.total_steps) - plan.batch_sizes.before(first_step)
    seconds = plan.computed_flops_per_token(length) * length * sequences / (0.6 * flops.measured_speed())
    _LOGGER.info(
        'expected   about %s on this CPU, from its matmul speed, for the %s left with rows of %.0f tokens on average, '
        'after compilation',
        flops.duration(seconds),
        counted(plan.total_steps - first_step, 'step'),
        length,
    )
    if seconds <= _LONG:
        return
    if is_from_scratch and plan.num_params > _TINY:
        _LOGGER.info('           for a machine without an accelerator: --gin_file=gin/pretrain_tiny.gin (minutes)')
        return
    groups = '' if is_from_scratch or data.group else ' and GROUP_BY_LENGTH=%BATCH_SIZE'
    steps = first_step + max(1, int((plan.total_steps - first_step) * _LONG / seconds))
    _LOGGER.info(f'           about an hour with --gin.TRAIN_STEPS={steps}; smaller TASK_FEATURE_LENGTHS{groups} help')


def mean_length(data: Data, batch_size: int) -> float:
    """Return the mean number of tokens in a row of a batch, padding included, from the first groups of an epoch."""
    if data.group is None:
        return data.length
    batches = batches_of_groups(data, batch_size)
    return float(np.mean([batch['decoder_input_tokens'].shape[1] for batch in batches]))


def in_short(values: Mapping[str, float]) -> dict[str, str]:
    """Values shown after the progress bar, from those of a log line."""
    mfu = values.get('speed/mfu')
    return {
        'loss': f'{values["train/loss"]:.3f}',
        'tokens/s': f'{values["speed/tokens_per_second"]:,.0f}',
        'MFU': 'n/a' if mfu is None else f'{mfu:.1%}',
    }


def diverged(step: int, newest: Path | None) -> str:
    """The loss is not finite; `newest` is the newest checkpoint."""
    saved = 'none was saved' if newest is None else f'{newest} is intact'
    return (
        f'The loss is no longer finite at step {step:,}. The last checkpoint before it: {saved}. '
        'Lower LEARNING_RATE or clip more (clip_norm), then continue.'
    )


def spike(skip: Skip) -> str:
    """The run is rewound because of a spike."""
    return (
        f'spike at step {skip.spike_step + 1:,}: {skip.reason}. Rewinding to step {skip.step:,}, '
        f'from where {skip.sequences:,} sequences are skipped'
    )


def of_several_processes(loss: float, checkpoint: Path, command: str) -> str:
    """The end of a run of several processes, which make no report."""
    return (
        f'validation loss  {loss:.4f} nats\ncheckpoint  {checkpoint}\n'
        f'For the full report, run the command in one process, on the machine that has the checkpoint: {command}'
    )
