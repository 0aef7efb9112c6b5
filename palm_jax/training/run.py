"""How often things happen in a run, which command started it, and the record that its directory keeps."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from palm_jax.bounds import Count, checked
from palm_jax.training import distributed
from palm_jax.training.interfaces import Vocabulary


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


DataIdentity = Mapping[str, Mapping[str, Any]]  # what a run reads, by content; see `interfaces.Data.identity`


class Record(Protocol):
    """What MODEL_DIR keeps of how a run was started."""

    def check(self, before: DataIdentity | None, now: DataIdentity) -> None:
        """Refuse to continue a run with another configuration or other data, unless that was asked for.

        Args:
          before: data of the newest checkpoint; None if there is none, or it does not say.
          now: data of this run.
        """

    def keep(self) -> None:
        """Write the record; called once the run can begin or continue."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The command that started the loop, for the record.

    Attributes:
      config: resolved gin text.
      command: command line as it was typed.
      start: `time.monotonic()` when the command started.
      record: what MODEL_DIR keeps; None keeps nothing.
      is_part: whether the run is a part of something that its command continues, so that nobody trains it further.
    """

    config: str = ''
    command: str = 'python -m palm_jax.train'
    start: float = dataclasses.field(default_factory=time.monotonic)
    record: Record | None = None
    is_part: bool = False

    def check(self, before: DataIdentity | None, now: DataIdentity) -> None:
        """Check the record, in the first process, before any process goes on; see `Record.check`."""
        with distributed.first_alone('the record is checked'):
            if self.record is not None and distributed.is_first():
                self.record.check(before, now)

    def keep(self, directory: Path, vocabulary: Vocabulary) -> None:
        """Write the record and the vocabulary to the run's directory, in the first process; see `Record.keep`."""
        if not distributed.is_first():
            return
        if self.record is not None:
            self.record.keep()
        vocabulary.save(directory)
