"""Learning rates as functions of the step, from optax where it has them.

In schedules with `total_steps`, `warmup_steps` is a number of steps or, below 1, a share of the run.
"""

from __future__ import annotations

from typing import Annotated

import jax.numpy as jnp
import optax

from palm_jax.bounds import Above, AtLeast, AtMost, checked
from palm_jax.errors import UserError

LearningRate = Annotated[float, AtLeast(0)]
Steps = Annotated[int, AtLeast(1)]
WarmupSteps = Annotated[int | float, AtLeast(0)]
Fraction = Annotated[float, AtLeast(0)]


@checked
def constant(learning_rate: LearningRate, warmup_steps: Annotated[int, AtLeast(0)] = 0) -> optax.Schedule:
    """A constant learning rate after a linear warm-up from zero.

    Args:
      learning_rate: learning rate after the warm-up.
      warmup_steps: number of steps of the warm-up.
    """
    return _after_warmup(optax.schedules.constant_schedule(learning_rate), learning_rate, warmup_steps)


@checked
def palm(learning_rate: LearningRate = 1e-2, constant_steps: Annotated[int, AtLeast(0)] = 10_000) -> optax.Schedule:
    """PaLM's schedule (section 5): learning_rate · min(1, √(constant_steps / k)) at step k.

    For the paper's 1e-2 and 10,000 the second part is its 1/√k.

    Args:
      learning_rate: learning rate of the first `constant_steps` steps.
      constant_steps: number of steps before the decay.
    """

    def schedule(count):
        return learning_rate * jnp.minimum(1.0, jnp.sqrt(constant_steps / jnp.maximum(count, 1)))

    return schedule


@checked
def linear(
    learning_rate: LearningRate, total_steps: Steps, warmup_steps: WarmupSteps = 0, final: Fraction = 0.0
) -> optax.Schedule:
    """Linear warm-up, then linear decay.

    Args:
      learning_rate: learning rate after the warm-up.
      total_steps: number of steps of the run.
      warmup_steps: number of steps of the warm-up or, below 1, share of the run.
      final: learning rate at `total_steps`, as a fraction of `learning_rate`.
    """
    warmup = _warmup_steps(warmup_steps, total_steps)
    decay = optax.schedules.linear_schedule(learning_rate, final * learning_rate, total_steps - warmup)
    return _after_warmup(decay, learning_rate, warmup)


@checked
def cosine(
    learning_rate: LearningRate, total_steps: Steps, warmup_steps: WarmupSteps = 0, final: Fraction = 0.1
) -> optax.Schedule:
    """Linear warm-up, then half a cosine (Loshchilov and Hutter, arXiv 1608.03983).

    Args:
      learning_rate: learning rate after the warm-up.
      total_steps: number of steps of the run.
      warmup_steps: number of steps of the warm-up or, below 1, share of the run.
      final: learning rate at `total_steps`, as a fraction of `learning_rate`.
    """
    warmup = _warmup_steps(warmup_steps, total_steps)
    decay = optax.schedules.cosine_decay_schedule(learning_rate, total_steps - warmup, alpha=final)
    return _after_warmup(decay, learning_rate, warmup)


@checked
def warmup_stable_decay(
    learning_rate: LearningRate,
    total_steps: Steps,
    warmup_steps: WarmupSteps = 0,
    decay_fraction: Annotated[float, Above(0), AtMost(1)] = 0.2,
    final: Fraction = 0.0,
) -> optax.Schedule:
    """Linear warm-up, a plateau, then linear decay (MiniCPM, arXiv 2404.06395).

    Args:
      learning_rate: learning rate of the plateau.
      total_steps: number of steps of the run.
      warmup_steps: number of steps of the warm-up or, below 1, share of the run.
      decay_fraction: share of the run over which the learning rate decays at the end.
      final: learning rate at `total_steps`, as a fraction of `learning_rate`.
    """
    decay_steps = max(1, round(decay_fraction * total_steps))
    warmup = _warmup_steps(warmup_steps, total_steps, decay_steps)
    decay = optax.schedules.linear_schedule(learning_rate, final * learning_rate, decay_steps)
    return optax.schedules.join_schedules([constant(learning_rate, warmup), decay], [total_steps - decay_steps])


@checked
def cyclical(
    learning_rate: LearningRate, cycle_steps: Annotated[int, AtLeast(2)] = 1000, minimum: Fraction = 0.1
) -> optax.Schedule:
    """Triangular cycles, which begin at their minimum (Smith, arXiv 1506.01186).

    Args:
      learning_rate: learning rate in the middle of a cycle.
      cycle_steps: number of steps of a cycle.
      minimum: learning rate at both ends of a cycle, as a fraction of `learning_rate`.
    """

    def schedule(count):
        phase = jnp.mod(count, cycle_steps) / cycle_steps
        height = 1 - jnp.abs(2 * phase - 1)
        return learning_rate * (minimum + (1 - minimum) * height)

    return schedule


def _after_warmup(decay: optax.Schedule, learning_rate: float, warmup_steps: int) -> optax.Schedule:
    if not warmup_steps:
        return decay
    warmup = optax.schedules.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.schedules.join_schedules([warmup, decay], [warmup_steps])


def _warmup_steps(warmup_steps: int | float, total_steps: int, decay_steps: int = 1) -> int:
    steps = int(warmup_steps * total_steps) if 0 < warmup_steps < 1 else int(warmup_steps)
    if steps and steps + decay_steps > total_steps:
        raise UserError(
            f'WARMUP_STEPS = {warmup_steps} leaves no step of TRAIN_STEPS = {total_steps} for the decay. '
            'Lower it, or give a share of the run, e.g. 0.05.'
        )
    return steps
