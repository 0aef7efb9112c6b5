"""Ctrl-C and SIGTERM as a request that the loop honours between two steps.

Of several processes one may be told before the others: there JAX's coordination service takes the signal, and
agrees with all on the step after which they save (`Checkpoints.preemption_agreed`).
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Self

from palm_jax.training import distributed


class Interrupts:
    """While entered, the first signal sets `received`; a second Ctrl-C acts at once.

    Attributes:
      received: the signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> Self:
        alone = not distributed.are_several()
        if alone and threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        else:
            self._previous = {}
        return self

    def __exit__(self, *exception: object) -> None:
        for s, handler in self._previous.items():
            signal.signal(s, handler)

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells and schedulers expect; 0 when there was none."""
        return 0 if self.received is None else 128 + self.received

    def take(self, number: signal.Signals) -> None:
        """A signal that came another way."""
        self.received = self.received or number

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        print(f'\n{self.received.name}: saving when this step is done; Ctrl-C again leaves at once', file=sys.stderr)
