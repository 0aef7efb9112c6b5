"""How often things happen in a run, and which command started it."""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated

from palm_jax.bounds import AtLeast, checked

Count = Annotated[int, AtLeast(1)]


@checked
@dataclasses.dataclass(frozen=True)
class Periods:
    """How often things happen, in steps.

    Attributes:
      log: steps between log lines.
      evaluate: steps between evaluations of the validation loss; the report at the end evaluates, too.
      checkpoint: steps between checkpoints; the last step is saved, too.
      evaluate_batches: batches per evaluation; with a best metric, and in the report, all are read.
      keep: number of newest checkpoints that are kept.
      keep_every: checkpoints whose step this divides are kept besides; None keeps no others.
    """

    log: Count = 10
    evaluate: Count = 1000
    checkpoint: Count = 1000
    evaluate_batches: Count = 16
    keep: Count = 2
    keep_every: Count | None = None

    def any_is_due(self, step: int) -> bool:
        """Whether something is logged, evaluated or saved after `step` steps."""
        return any(step % period == 0 for period in (self.log, self.evaluate, self.checkpoint))


@dataclasses.dataclass(frozen=True)
class Run:
    """The command that started the loop, for the record.

    Attributes:
      config: resolved gin text.
      command: command line as it was typed.
      start: `time.monotonic()` when the command started.
    """

    config: str = ''
    command: str = 'python -m palm_jax.train'
    start: float = dataclasses.field(default_factory=time.monotonic)
