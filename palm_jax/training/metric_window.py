"""The metrics of the steps since the last log line."""

from __future__ import annotations

import jax

from palm_jax.training import metrics as metrics_lib
from palm_jax.training.metrics import Metrics


class MetricWindow:
    """Sums the metrics of the steps since the last log line.

    A step's metrics stay on the device until a sum is needed, so training does not wait for them. The steps are
    summed in order and in float64, wherever the window is cut by a checkpoint: a resumed run logs the same bits.

    Args:
      sums: sums over the window's earlier steps, as a checkpoint kept them; None for an empty window.
    """

    def __init__(self, sums: Metrics | None = None):
        self.reset(sums)

    def reset(self, sums: Metrics | None) -> None:
        """Replace the contents of the window by sums from a checkpoint, or by nothing."""
        self._sums: Metrics = sums or {}
        self._pending: list[Metrics] = []

    def add(self, metrics: Metrics) -> None:
        """Add a step's metrics, after waiting for the step before it: the host is at most one step ahead."""
        if self._pending:
            jax.block_until_ready(self._pending[-1])
        self._pending.append(metrics)

    def sums(self) -> Metrics | None:
        """Sums over the window so far, fetched from the device; None for an empty window."""
        self._sums, self._pending = metrics_lib.total(self._pending, self._sums), []
        return self._sums or None

    def take(self) -> dict[str, float]:
        """Return the means over the window, and empty it.

        What nothing was counted of is left out, for its NaN would be no JSON; only the loss is always there.
        """
        sums = self.sums() or {}
        self.reset(None)
        return {name: ratio.value() for name, ratio in sums.items() if ratio.count or name == 'loss'}
