"""Learning rates as functions of the step, from optax where it has them.

`warmup_steps` is a number of steps or, below 1 and where the end of the run is known, a fraction of the run.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from palm_jax.errors import UserError


def constant(learning_rate: float, warmup_steps: int = 0) -> optax.Schedule:
    """Constant `learning_rate` after a linear warm-up from zero."""
    _check(learning_rate, WARMUP_STEPS=warmup_steps)
    return _after_warmup(optax.schedules.constant_schedule(learning_rate), learning_rate, warmup_steps)


def palm(learning_rate: float = 1e-2, constant_steps: int = 10_000) -> optax.Schedule:
    """PaLM's schedule (paper, section 5): `learning_rate` for `constant_steps`, then proportional to 1/√k.

    It is learning_rate · min(1, √(constant_steps / k)): the paper's 1/√k with its values, 1e-2 and 10,000 steps.
    """
    _check(learning_rate, CONSTANT_STEPS=constant_steps)

    def schedule(count):
        return learning_rate * jnp.minimum(1.0, jnp.sqrt(constant_steps / jnp.maximum(count, 1)))

    return schedule


def linear(learning_rate: float, total_steps: int, warmup_steps: int | float = 0, final: float = 0.0) -> optax.Schedule:
    """Linear warm-up, then linear decay to `final` · learning_rate at `total_steps`."""
    _check(learning_rate, WARMUP_STEPS=warmup_steps, final=final)
    warmup = _warmup_steps(warmup_steps, total_steps)
    decay = optax.schedules.linear_schedule(learning_rate, final * learning_rate, total_steps - warmup)
    return _after_warmup(decay, learning_rate, warmup)


def cosine(learning_rate: float, total_steps: int, warmup_steps: int | float = 0, final: float = 0.1) -> optax.Schedule:
    """Linear warm-up, then half a cosine to `final` · learning_rate at `total_steps` (arXiv 1608.03983)."""
    _check(learning_rate, WARMUP_STEPS=warmup_steps, final=final)
    warmup = _warmup_steps(warmup_steps, total_steps)
    decay = optax.schedules.cosine_decay_schedule(learning_rate, total_steps - warmup, alpha=final)
    return _after_warmup(decay, learning_rate, warmup)


def warmup_stable_decay(
    learning_rate: float,
    total_steps: int,
    warmup_steps: int | float = 0,
    decay_fraction: float = 0.2,
    final: float = 0.0,
) -> optax.Schedule:
    """Warm-up, constant rate, then linear decay over the last `decay_fraction` of the steps (arXiv 2404.06395)."""
    _check(learning_rate, WARMUP_STEPS=warmup_steps, final=final)
    if not 0 < decay_fraction <= 1:
        raise UserError(f'DECAY_FRACTION is {decay_fraction}; it must be above 0 and at most 1.')
    decay_steps = max(1, round(decay_fraction * total_steps))
    warmup = _warmup_steps(warmup_steps, total_steps, decay_steps)
    decay = optax.schedules.linear_schedule(learning_rate, final * learning_rate, decay_steps)
    return optax.schedules.join_schedules([constant(learning_rate, warmup), decay], [total_steps - decay_steps])


def cyclical(learning_rate: float, cycle_steps: int, minimum: float = 0.1) -> optax.Schedule:
    """Triangular cycles between `minimum` · learning_rate and learning_rate (arXiv 1506.01186).

    A cycle starts at the minimum, and peaks in the middle of its `cycle_steps`.
    """
    _check(learning_rate, minimum=minimum)
    if cycle_steps < 2:
        raise UserError(f'schedules.cyclical.cycle_steps is {cycle_steps}; a cycle needs at least 2 steps.')

    def schedule(count):
        phase = jnp.mod(count, cycle_steps) / cycle_steps
        height = 1 - jnp.abs(2 * phase - 1)
        return learning_rate * (minimum + (1 - minimum) * height)

    return schedule


def _check(learning_rate: float, **others: float) -> None:
    for name, value in {'LEARNING_RATE': learning_rate, **others}.items():
        if not 0 <= value < float('inf'):
            raise UserError(f'{name} is {value}; it must be a number that is not negative.')


def _after_warmup(decay: optax.Schedule, learning_rate: float, warmup_steps: int) -> optax.Schedule:
    if not warmup_steps:
        return decay
    warmup = optax.schedules.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.schedules.join_schedules([warmup, decay], [warmup_steps])


def _warmup_steps(warmup_steps: int | float, total_steps: int, decay_steps: int = 1) -> int:
    if total_steps < 1:
        raise UserError(f'TRAIN_STEPS is {total_steps}; it must be at least 1.')
    steps = int(warmup_steps * total_steps) if 0 < warmup_steps < 1 else int(warmup_steps)
    if steps and steps + decay_steps > total_steps:
        raise UserError(
            f'WARMUP_STEPS = {warmup_steps} leaves no steps of TRAIN_STEPS = {total_steps} for the decay. '
            'Lower it, or give a fraction of the run, e.g. 0.05.'
        )
    return steps
