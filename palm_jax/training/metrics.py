"""Metrics as sums and counts, which are divided once, when they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Ratio:
    """A weighted mean that has not been divided yet, so that it adds up over microbatches, hosts and steps."""

    total: jax.Array | float
    count: jax.Array | float

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(self.total + other.total, self.count + other.count)

    def value(self) -> float:
        """total / count, NaN where nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else float('nan')


Metrics = dict[str, Ratio]


def add(left: Metrics, right: Metrics) -> Metrics:
    """Add two sets of the same metrics, by name."""
    return {name: left[name] + right[name] for name in left}


def one(value: jax.Array) -> Ratio:
    """Make a metric of one number, e.g. the gradient norm."""
    return Ratio(jnp.asarray(value, jnp.float32), jnp.ones((), jnp.float32))


def values(metrics: Metrics) -> dict[str, float]:
    """Fetch all metrics from the device in one transfer, and divide them."""
    return {name: ratio.value() for name, ratio in jax.device_get(metrics).items()}


def in_group(group: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return values named `group/name`, as writers expect them."""
    return {f'{group}/{name}': value for name, value in values.items()}


def total(batches: Sequence[Metrics], before: Metrics | None = None) -> Metrics:
    """Sum the metrics of several batches, on the host in float64, one after another.

    Args:
      batches: metrics on the device.
      before: sums of earlier batches; with them, the result is bit for bit that of all batches at once.

    Returns:
      The sums; `before`, or nothing without it, where there are no batches.
    """
    result = before or {}
    for batch in jax.device_get(list(batches)):
        wide = {name: Ratio(float(ratio.total), float(ratio.count)) for name, ratio in batch.items()}
        result = add(result, wide) if result else wide
    return result
