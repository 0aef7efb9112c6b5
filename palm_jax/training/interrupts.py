"""SIGINT and SIGTERM as requests to stop that the loop honours between two steps.

A signal may reach one of several processes before the others. There JAX's coordination service takes the signal, and
all processes agree on the step after which they save (`Checkpoints.preemption_agreed`).
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Self

from palm_jax.training import distributed

_LOGGER = logging.getLogger(__name__)


class Interrupts:
    """A context manager in which the first signal sets `received`; a second Ctrl-C interrupts at once.

    Attributes:
      received: the first signal; None before one.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> Self:
        alone = not distributed.are_several()
        if alone and threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        else:
            self._previous = {}
        return self

    def __exit__(self, *exception: object) -> None:
        for s, handler in self._previous.items():
            signal.signal(s, handler)

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells and schedulers expect; 0 without a signal."""
        return 0 if self.received is None else 128 + self.received

    def take(self, number: signal.Signals) -> None:
        """Record a signal that arrived in another way."""
        self.received = self.received or number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        _LOGGER.warning('\n%s: saving after this step; press Ctrl-C again to exit at once', self.received.name)
