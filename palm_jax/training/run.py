"""How often things happen in a run, and which command started it."""

from __future__ import annotations

import dataclasses
import time

from palm_jax.errors import UserError


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

    log: int = 10
    evaluate: int = 500
    checkpoint: int = 500
    evaluate_batches: int = 16
    keep: int = 2
    keep_every: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise UserError(f'loop.Periods.{field.name} is {value}; it must be at least 1.')

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
