"""The training batches of a run: batch k is a function of k and of what was skipped."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from palm_jax.partitioning import read_batch
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.interfaces import Data


class Feed:
    """Reads the batch of a step and places it on the mesh.

    Args:
      data: sequences by number.
      batch_sizes: sequences per step.
      skipped: number of sequences skipped before the batch of a step, see `SpikeGuard.offset`.
      mesh: devices over whose `data` axis a batch is split.
    """

    def __init__(self, data: Data, batch_sizes: BatchSizes, skipped: Callable[[int], int], mesh: Mesh):
        self._data, self._batch_sizes, self._skipped, self._mesh = data, batch_sizes, skipped, mesh

    def batch(self, step: int) -> dict[str, jax.Array]:
        """The batch of a step (counted from 0): features [B, L] on the mesh.

        Raises:
          UserError: the data cannot be read any more.
        """
        first = self._batch_sizes.before(step) + self._skipped(step)
        read = lambda row, count: self._data.batch(first + row, count)  # noqa: E731
        return read_batch(read, self._batch_sizes.at(step), self._mesh)
