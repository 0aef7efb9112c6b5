"""What to do when the loss jumps: go back and leave out the batches around it (PaLM paper, section 5.1).

"We re-started training from a checkpoint roughly 100 steps before the spike started, and skipped roughly 200-500
data batches, which cover the batches that were seen before and during the spike."
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory
from palm_jax.training import metrics as metrics_lib
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.metrics import Metrics

_ROBUST = 1.4826  # of a normal distribution the standard deviation over the median absolute deviation


@dataclasses.dataclass(frozen=True)
class SpikeRule:
    """When a loss or a gradient norm is a spike, and how it is left out.

    A value is one when it is no finite number, or lies above the median of the last `window` steps by more than
    `threshold` times their robust standard deviation.

    Attributes:
      window: steps that say what is usual.
      loss_threshold, gradient_threshold: see above; None does not look.
      rewind_steps: steps before the spike to go back to, or to the checkpoint before that.
      skip_steps_after: batches behind the spike that are left out, too.
      max_rollbacks: times in a run; one more ends it.
    """

    window: int = 100
    loss_threshold: float | None = 10.0
    gradient_threshold: float | None = 50.0
    rewind_steps: int = 100
    skip_steps_after: int = 100
    max_rollbacks: int = 5

    def __post_init__(self) -> None:
        for name, least in (('window', 2), ('rewind_steps', 1), ('skip_steps_after', 0), ('max_rollbacks', 1)):
            if getattr(self, name) < least:
                raise UserError(f'spikes.SpikeRule.{name} is {getattr(self, name)}; it must be at least {least}.')


@dataclasses.dataclass(frozen=True)
class Skip:
    """Batches that were left out: from step `step` on, data comes `sequences` later.

    Attributes:
      step: where the run went back to.
      sequences: how many were left out there.
      spike_step: whose update was the spike.
      reason: what was seen.
      superseded: the run has since gone back beyond `step`, to a skip that reaches further.
    """

    step: int
    sequences: int
    spike_step: int
    reason: str
    superseded: bool = False


class SpikeGuard:
    """Follows the loss and the gradient norm of every step, and knows which batches a run leaves out.

    What was left out is kept in MODEL_DIR, so a continued run leaves out the same, also without a rule.

    Args:
      rule: what is a spike; None: nothing is.
      directory: MODEL_DIR.
      recent: {'loss': [...], 'gradient_norm': [...]} of the last usual steps, as a checkpoint keeps them.
    """

    def __init__(self, rule: SpikeRule | None, directory: Path, recent: dict[str, list[float]] | None = None):
        self.rule, self._path = rule, RunDirectory(directory).skipped_batches
        self.skips = [Skip(**record) for record in json.loads(self._path.read_text())] if self._path.exists() else []
        self._queue: list[tuple[int, Metrics]] = []
        self._thresholds = {} if rule is None else _thresholds(rule)
        self.remember(recent)

    def remember(self, recent: dict[str, list[float]] | None) -> None:
        """Takes over what was usual, as a checkpoint kept it, and forgets what has not been judged."""
        self._queue = []
        length = 0 if self.rule is None else self.rule.window
        self._recent = {name: collections.deque((recent or {}).get(name, ()), length) for name in self._thresholds}

    @property
    def recent(self) -> dict[str, list[float]]:
        """What a checkpoint keeps, so that a resumed run judges alike."""
        return {name: list(values) for name, values in self._recent.items()}

    def offset(self, step: int) -> int:
        """Sequences that are left out before the batch of a step."""
        return sum(skip.sequences for skip in self.skips if skip.step <= step and not skip.superseded)

    def add(self, step: int, metrics: Metrics) -> None:
        """A step's metrics, perhaps still on their way from the device."""
        if self.rule is not None:
            self._queue.append((step, metrics))

    def first_spike(self, everything: bool) -> tuple[int, str] | None:
        """The first spike, (step, what is unusual), among the steps added; the newest waits unless `everything`."""
        while len(self._queue) > (0 if everything else 1):
            step, metrics = self._queue.pop(0)
            values = metrics_lib.values({name: metrics[name] for name in self._thresholds})
            reason = self._judge(values)
            if reason is not None:
                return step, reason
        return None

    def _judge(self, values: dict[str, float]) -> str | None:
        for name, threshold in self._thresholds.items():
            value, recent = values[name], self._recent[name]
            if not math.isfinite(value):
                return f'{name} is {value}'
            if threshold is not None and len(recent) == self.rule.window:
                middle = statistics.median(recent)
                spread = _ROBUST * statistics.median(abs(v - middle) for v in recent)
                if value > middle + threshold * max(spread, 1e-3 * abs(middle)):
                    return f'{name} is {value:.4g}, where {middle:.4g} ± {spread:.2g} is usual'
        for name, recent in self._recent.items():
            recent.append(values[name])
        return None

    def back_from(self, spike_step: int, saved: Sequence[int]) -> int:
        """The step to go back to: of those saved (or 0) the newest that lies far enough before the spike."""
        before = [step for step in saved if step <= spike_step]
        return max(
            (step for step in before if step <= spike_step - self.rule.rewind_steps), default=min(before, default=0)
        )

    def skip(self, step: int, spike_step: int, reason: str, batch_sizes: BatchSizes) -> Skip:
        """Leaves out, from `step` on, the batches up to the spike and `beyond`; kept on disk before it counts.

        Raises:
          UserError: it has happened too often.
        """
        if len(self.skips) >= self.rule.max_rollbacks:
            raise UserError(
                f'A spike at step {spike_step + 1:,} ({reason}), and {len(self.skips)} have been left out already '
                f'(spikes.SpikeRule.max_rollbacks); {self._path} lists them. '
                'Lower LEARNING_RATE or clip more (clip_norm).'
            )
        last = spike_step + self.rule.skip_steps_after
        end = batch_sizes.before(last + 1) + self.offset(last)
        sequences = end - batch_sizes.before(step) - self.offset(step)
        self.skips = [dataclasses.replace(skip, superseded=True) if skip.step > step else skip for skip in self.skips]
        self.skips.append(Skip(step, sequences, spike_step, reason))
        unfinished = self._path.with_suffix('.unfinished')
        unfinished.write_text(json.dumps([dataclasses.asdict(s) for s in self.skips], indent=2) + '\n')
        unfinished.replace(self._path)
        return self.skips[-1]


def _thresholds(rule: SpikeRule) -> dict[str, float | None]:
    return {'loss': rule.loss_threshold, 'gradient_norm': rule.gradient_threshold}
