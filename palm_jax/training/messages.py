"""Messages of the loop: before a run, beside its progress bar, and when it cannot go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import jax

from palm_jax.training import flops
from palm_jax.training.plan import Plan
from palm_jax.training.spikes import Skip

_LOGGER = logging.getLogger(__name__)

ANOTHER_METRIC = 'Run the same command with another BEST_METRIC and --accept_changes to continue.'


def warn_if_slow(plan: Plan, first_step: int) -> None:
    """Log the expected duration of a run on a CPU, and a smaller configuration if that is long."""
    if jax.default_backend() != 'cpu' or first_step >= plan.total_steps:
        return
    tokens = plan.total_tokens - plan.batch_sizes.before(first_step) * plan.length
    seconds = plan.flops_per_token * tokens / (0.6 * flops.measured_speed())
    _LOGGER.info('expected   about %s on this CPU, from its matmul speed', flops.duration(seconds))
    if seconds > 3600:
        _LOGGER.info('           for a machine without an accelerator: --gin_file=gin/pretrain_tiny.gin (minutes)')


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
