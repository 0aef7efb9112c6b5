"""The time of a run: its progress bar, its watchdog, and requests to stop."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax

from palm_jax.training.interrupts import Interrupts
from palm_jax.training.progress import Progress
from palm_jax.training.watchdog import Watchdog


class RunClock:
    """Shows progress, measures speed, notices hangs, and knows when a run has to stop early.

    A context manager: while it is entered, SIGINT and SIGTERM are requests to stop after the current step.

    Args:
      first_step: step at which this process begins.
      total_steps: step at which the run ends.
      flops_per_token: model FLOPs of one training token, for the MFU.
      start: `time.monotonic()` when the command started.
      preemption_agreed: whether several processes agreed to stop after a step, see `Checkpoints.preemption_agreed`.
      memory: line about the memory that the first step used; empty prints none.

    Attributes:
      stop_requested: whether a signal had arrived when the last step was done. A signal that arrives later is seen
        after the next step, so that all decisions about one step agree.
    """

    def __init__(
        self,
        first_step: int,
        total_steps: int,
        flops_per_token: float,
        start: float,
        preemption_agreed: Callable[[int], bool],
        memory: Callable[[], str] = str,
    ):
        self.stop_requested = False
        self._first_step, self._start, self._preemption_agreed = first_step, start, preemption_agreed
        self._memory = memory
        self._interrupts = Interrupts()
        self._progress = Progress(first_step, total_steps, flops_per_token)
        self._watchdog = Watchdog()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for part in (self._interrupts, self._progress, self._watchdog):
            self._stack.enter_context(part)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def step(self, done: int, tokens: int, metrics: Any) -> None:
        """Record that a step has been dispatched.

        Args:
          done: number of steps taken, this one included.
          tokens: tokens in its batch.
          metrics: its metrics on the device; the first step is waited for and reported, as it includes compilation.
        """
        self._progress.step(tokens)
        if done == self._first_step + 1:
            jax.block_until_ready(metrics)
            self.say(f'first step finished {time.monotonic() - self._start:.0f} s after the start')
            if used := self._memory():
                self.say(used)
        self._watchdog.step(done)
        if self._preemption_agreed(done):
            self._interrupts.take(signal.SIGTERM)
        self.stop_requested = self.received_signal is not None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the body (evaluation, saving) from the training time and from the watch for hangs."""
        self._progress.pause()
        self._watchdog.pause()
        yield
        self._progress.resume()

    def rewind(self, step: int) -> None:
        """Continue from an earlier step; a signal that has arrived is seen after the next step."""
        self._progress.go_back(step)
        self.stop_requested = False

    def speed(self) -> dict[str, float]:
        """Return tokens/s and, on known devices, the MFU since the last call."""
        return self._progress.speed()

    def show(self, **values: str) -> None:
        """Set values shown after the progress bar."""
        self._progress.show(**values)

    def say(self, message: str) -> None:
        """Print a line above the progress bar."""
        self._progress.say(message)

    @property
    def received_signal(self) -> signal.Signals | None:
        """The first signal received, or None."""
        return self._interrupts.received

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, or 0 without a signal."""
        return self._interrupts.exit_code
