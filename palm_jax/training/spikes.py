"""Loss spikes: rewind to an earlier checkpoint and skip the batches around the spike (PaLM paper, section 5.1).

"We re-started training from a checkpoint roughly 100 steps before the spike started, and skipped roughly 200-500
data batches, which cover the batches that were seen before and during the spike."
"""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from palm_jax.bounds import AtLeast, Positive, checked
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory, write_whole
from palm_jax.training import distributed
from palm_jax.training import metrics as metrics_lib
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.metrics import Metrics

_LOGGER = logging.getLogger(__name__)
_ROBUST = 1.4826  # standard deviation over median absolute deviation, of a normal distribution


@checked
@dataclasses.dataclass(frozen=True)
class SpikeRule:
    """When a loss or a gradient norm is a spike, and which batches are skipped then.

    A value is a spike when it is not finite, or exceeds the median of the last `window` steps by more than
    `threshold` times their robust standard deviation.

    Attributes:
      window: number of recent steps that define the usual values.
      loss_threshold, gradient_threshold: thresholds in standard deviations; None does not watch the value.
      rewind_steps: number of steps before the spike to which the run goes back, at least: to a checkpoint.
      skip_steps_after: number of batches after the spike that are skipped, too.
      max_rollbacks: number of rollbacks in a run; one more ends it.
    """

    window: Annotated[int, AtLeast(2)] = 100
    loss_threshold: Positive | None = 10.0
    gradient_threshold: Positive | None = 50.0
    rewind_steps: Annotated[int, AtLeast(1)] = 100
    skip_steps_after: Annotated[int, AtLeast(0)] = 100
    max_rollbacks: Annotated[int, AtLeast(1)] = 5


class Spike(NamedTuple):
    """An unusual value.

    Attributes:
      step: step whose update was the spike, counted from 0.
      reason: the value, and the usual ones.
    """

    step: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Skip:
    """Skipped batches: from step `step` on, the data continues `sequences` later.

    Attributes:
      step: step to which the run went back.
      sequences: number of sequences skipped there.
      spike_step: step whose update was the spike, counted from 0.
      reason: the unusual value.
      superseded: whether the run has since gone back beyond `step`, to a skip that reaches further.
    """

    step: int
    sequences: int
    spike_step: int
    reason: str
    superseded: bool = False


class SpikeGuard:
    """Watches the loss and the gradient norm of every step, and knows which batches a run skips.

    Skips are recorded in MODEL_DIR and in every checkpoint, so a resumed run skips the same batches, also without a
    rule.

    Args:
      rule: definition of a spike; None detects none.
      directory: MODEL_DIR.
      recent: {'loss': [...], 'gradient_norm': [...]} of the last usual steps, as a checkpoint kept them.
    """

    def __init__(self, rule: SpikeRule | None, directory: Path, recent: Mapping[str, list[float]] | None = None):
        self.rule, self._path = rule, RunDirectory(directory).skipped_batches
        self.skips = _read(self._path)
        self._queue: list[tuple[int, Metrics]] = []
        self._thresholds = {} if rule is None else _thresholds(rule)
        self.remember(recent)

    def remember(self, recent: Mapping[str, list[float]] | None) -> None:
        """Restore the usual values that a checkpoint kept, and forget the steps that were not judged yet."""
        self._queue = []
        length = 0 if self.rule is None else self.rule.window
        self._recent = {name: collections.deque((recent or {}).get(name, ()), length) for name in self._thresholds}

    @property
    def recent(self) -> dict[str, list[float]]:
        """The usual values; with them in a checkpoint, a resumed run judges the same."""
        return {name: list(values) for name, values in self._recent.items()}

    @property
    def records(self) -> list[dict[str, Any]]:
        """The skips as JSON objects, oldest first, for a checkpoint to keep."""
        return [dataclasses.asdict(skip) for skip in self.skips]

    def adopt(self, kept: Sequence[Mapping[str, Any]] | None) -> None:
        """Take over the skips that a checkpoint kept, where the file in MODEL_DIR is lost or damaged."""
        if kept and len(kept) > len(self.skips):
            self.skips = [Skip(**record) for record in kept]
            self._write()
            _LOGGER.warning('%s has been restored from the newest checkpoint', self._path)

    def is_stale(self, step: int, kept: Sequence[Mapping[str, Any]] | None) -> bool:
        """Whether a checkpoint was trained on batches that the run skips, because a rollback was interrupted.

        Args:
          step: step of the checkpoint.
          kept: skips that it kept; None in checkpoints that do not say.
        """
        return kept is not None and any(skip.step < step for skip in self.skips[len(kept) :])

    def offset(self, step: int) -> int:
        """Number of sequences that are skipped before the batch of a step."""
        return sum(skip.sequences for skip in self.skips if skip.step <= step and not skip.superseded)

    def add(self, step: int, metrics: Metrics) -> None:
        """Add a step's metrics, which the device may still be computing."""
        if self.rule is not None:
            self._queue.append((step, metrics))

    def first_spike(self, everything: bool) -> Spike | None:
        """The first spike among the steps added. The newest step is judged with `everything` only: it takes waiting."""
        while len(self._queue) > (0 if everything else 1):
            step, metrics = self._queue.pop(0)
            values = metrics_lib.values({name: metrics[name] for name in self._thresholds})
            reason = self._judge(values)
            if reason is not None:
                return Spike(step, reason)
        return None

    def _judge(self, values: dict[str, float]) -> str | None:
        for name, threshold in self._thresholds.items():
            value, recent = values[name], self._recent[name]
            if not math.isfinite(value):
                return f'{name} is {value}'
            if threshold is not None and len(recent) == recent.maxlen:
                middle = statistics.median(recent)
                spread = _ROBUST * statistics.median(abs(v - middle) for v in recent)
                if value > middle + threshold * max(spread, 1e-3 * abs(middle)):
                    return f'{name} is {value:.4g}, where {middle:.4g} ± {spread:.2g} is usual'
        for name, recent in self._recent.items():
            recent.append(values[name])
        return None

    def back_from(self, spike_step: int, saved: Sequence[int]) -> int:
        """The step to go back to: of those saved (or 0) the newest that is far enough before the spike."""
        assert self.rule is not None, 'without a rule there are no spikes'
        latest = spike_step - self.rule.rewind_steps
        before = [step for step in saved if step <= spike_step]
        return max((step for step in before if step <= latest), default=min(before, default=0))

    def skip(self, step: int, spike_step: int, reason: str, batch_sizes: BatchSizes) -> Skip:
        """Skip, from `step` on, the batches up to the spike and `skip_steps_after` more; recorded on disk at once.

        Args:
          step: step to which the run goes back.
          spike_step, reason: the spike.
          batch_sizes: sequences per step.

        Raises:
          UserError: there have been `max_rollbacks` already.
        """
        assert self.rule is not None, 'without a rule there are no spikes'
        if len(self.skips) >= self.rule.max_rollbacks:
            raise UserError(
                f'A spike at step {spike_step + 1:,} ({reason}), and {len(self.skips)} have been skipped already '
                f'(spikes.SpikeRule.max_rollbacks); {self._path} lists them. '
                'Lower LEARNING_RATE or clip more (clip_norm).'
            )
        last = spike_step + self.rule.skip_steps_after
        end = batch_sizes.before(last + 1) + self.offset(last)
        sequences = end - batch_sizes.before(step) - self.offset(step)
        self.skips = [dataclasses.replace(skip, superseded=True) if skip.step > step else skip for skip in self.skips]
        self.skips.append(Skip(step, sequences, spike_step, reason))
        self._write()
        return self.skips[-1]

    def _write(self) -> None:
        if distributed.is_first():
            write_whole(self._path, json.dumps(self.records, indent=2) + '\n')


def _read(path: Path) -> list[Skip]:
    if not path.exists():
        return []
    try:
        return [Skip(**record) for record in json.loads(path.read_text(encoding='utf-8'))]
    except (ValueError, TypeError):
        _LOGGER.warning('%s is damaged; the run skips what its newest checkpoint says', path)
        return []


def _thresholds(rule: SpikeRule) -> dict[str, float | None]:
    return {'loss': rule.loss_threshold, 'gradient_norm': rule.gradient_threshold}
