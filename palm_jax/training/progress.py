"""Progress bar of a run: steps, time left, loss, tokens/s and MFU."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any, Self, TypeVar

import jax

from palm_jax.progress_bar import tqdm
from palm_jax.training import flops

Item = TypeVar('Item')


def track(items: Iterable[Item], total: int, description: str, unit: str = ' batches') -> Iterable[Item]:
    """Return the items, with a progress bar that shows their number and the time left while they are iterated over.

    Args:
      items: items; a bar that is to be right waits for the result of each.
      total: number of items.
      description: what is done, before the bar.
      unit: what the items are, after their number.
    """
    return tqdm(items, description, total, leave=False, unit=unit, mininterval=_interval())


def _interval() -> float:
    """Return the seconds between two updates of a bar: few on a terminal, many in a log file."""
    return 0.5 if sys.stderr.isatty() else 15.0


class Progress:
    """A progress bar that also measures the training speed.

    Args:
      first_step: step at which this process begins.
      total_steps: step at which the run ends.
      flops_per_token: model FLOPs of one training token, for the MFU.
    """

    def __init__(self, first_step: int, total_steps: int, flops_per_token: float):
        self._bar = tqdm(
            initial=first_step,
            total=total_steps,
            unit='step',
            dynamic_ncols=True,
            mininterval=_interval(),
        )
        self._flops_per_token = flops_per_token
        self._tokens, self._start = 0, time.monotonic()
        self._postfix: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def step(self, tokens: int) -> None:
        """Advance by one step with this number of tokens."""
        self._tokens += tokens
        self._bar.update()

    def go_back(self, step: int) -> None:
        """Continue from an earlier step."""
        self._bar.n, self._tokens, self._start = step, 0, time.monotonic()
        self._bar.refresh()

    def pause(self) -> None:
        """Exclude what follows (evaluation, saving) from the training time."""
        self._paused = time.monotonic()

    def resume(self) -> None:
        """Count training time again."""
        self._start += time.monotonic() - self._paused

    def speed(self) -> dict[str, float]:
        """Return tokens/s since the last call, and the MFU in [0, 1] where the device's peak is known."""
        now = time.monotonic()
        tokens_per_second = self._tokens / max(now - self._start, 1e-9)
        self._tokens, self._start = 0, now
        device = jax.devices()[0]
        mfu = flops.utilization(tokens_per_second, self._flops_per_token, device.device_kind, jax.device_count())
        return {'tokens_per_second': tokens_per_second} | ({} if mfu is None else {'mfu': mfu})

    def show(self, **values: str) -> None:
        """Set values shown after the progress bar; they stay until replaced."""
        self._postfix |= values
        self._bar.set_postfix(self._postfix, refresh=False)

    def say(self, message: str) -> None:
        """Print a line above the progress bar."""
        if not self._bar.disable:
            self._bar.write(message, file=sys.stderr)
