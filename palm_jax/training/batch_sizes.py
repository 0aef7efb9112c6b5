"""Batch sizes that grow during a run, like PaLM's (512, then 1024 from step 50k, then 2048 from 115k)."""

from __future__ import annotations

import dataclasses

from palm_jax.errors import UserError

Ramp = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """Sequences per step as a function of the step.

    Attributes:
      ramp: (first step, size) pairs in ascending order, the first of them for step 0.
    """

    ramp: Ramp

    @classmethod
    def of(cls, batch_size: int | Ramp) -> BatchSizes:
        """Build from one number, or from ((0, 512), (50_000, 1024), ...)."""
        ramp = ((0, batch_size),) if isinstance(batch_size, int) else tuple((int(a), int(b)) for a, b in batch_size)
        steps = [first for first, _ in ramp]
        if not ramp or steps[0] != 0 or steps != sorted(set(steps)) or min(size for _, size in ramp) < 1:
            raise UserError(
                f'BATCH_SIZE is {batch_size}; it must be a positive number or ascending pairs '
                '(first step, size) from step 0, e.g. ((0, 512), (50000, 1024)).'
            )
        return cls(ramp)

    def at(self, step: int) -> int:
        """Return the number of sequences in the batch of this step, counted from 0."""
        return next(size for first, size in reversed(self.ramp) if first <= step)

    def before(self, step: int) -> int:
        """Return the number of sequences in all batches before this step: its batch begins there in the data."""
        ends = [first for first, _ in self.ramp[1:]] + [step]
        return sum(
            size * (min(end, step) - first) for (first, size), end in zip(self.ramp, ends, strict=True) if first < step
        )
