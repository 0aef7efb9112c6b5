"""Detection of hangs: a step that takes far too long shows the stack of every thread."""

from __future__ import annotations

import collections
import faulthandler
import logging
import statistics
import sys
import threading
import time
from typing import Self

_LOGGER = logging.getLogger(__name__)


class Watchdog:
    """Prints every thread's stack when a step takes far longer than usual, once per hang.

    Args:
      times: multiple of the median step time above which a step is a hang.
      least: seconds below which a step is never a hang.
    """

    def __init__(self, times: float = 20.0, least: float = 120.0):
        self._times, self._least = times, least
        self._steps: collections.deque[float] = collections.deque(maxlen=50)
        self._last, self._number, self._is_watching = time.monotonic(), 0, False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def step(self, number: int) -> None:
        """Record that step `number` is done and the next one begins."""
        now = time.monotonic()
        if self._is_watching:
            self._steps.append(now - self._last)
        self._last, self._number, self._is_watching = now, number, True

    def pause(self) -> None:
        """Stop monitoring until the next step is done."""
        self._is_watching = False

    @property
    def limit(self) -> float:
        """Seconds above which a step is a hang."""
        usual = statistics.median(self._steps) if self._steps else 0.0
        return max(self._least, self._times * usual)

    def _watch(self) -> None:
        reported = -1
        while not self._stop.wait(min(1.0, self._least / 4)):
            waited = time.monotonic() - self._last
            if self._is_watching and self._steps and waited > self.limit and reported != self._number:
                reported, usual = self._number, statistics.median(self._steps)
                _LOGGER.warning(
                    f'\nstep {reported + 1:,} has taken {waited:.0f} s, but usually takes {usual:.2g} s. '
                    'Stacks of all threads:'
                )
                faulthandler.dump_traceback(sys.stderr.fileno(), all_threads=True)
