"""Notices when nothing happens any more, and says where every thread is."""

from __future__ import annotations

import collections
import faulthandler
import statistics
import sys
import threading
import time
from typing import Self


class Watchdog:
    """Prints every thread's stack when a step takes far longer than usual: once a hang.

    Args:
      times: so many times the usual step is a hang.
      least: seconds that are never one.
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
        """Step `number` is done, and the next begins."""
        now = time.monotonic()
        if self._is_watching:
            self._steps.append(now - self._last)
        self._last, self._number, self._is_watching = now, number, True

    def pause(self) -> None:
        """What follows takes as long as it takes."""
        self._is_watching = False

    @property
    def limit(self) -> float:
        """Seconds from which a step is a hang."""
        usual = statistics.median(self._steps) if self._steps else 0.0
        return max(self._least, self._times * usual)

    def _watch(self) -> None:
        told = -1
        while not self._stop.wait(min(1.0, self._least / 4)):
            waited = time.monotonic() - self._last
            if self._is_watching and self._steps and waited > self.limit and told != self._number:
                told, usual = self._number, statistics.median(self._steps)
                print(
                    f'\nstep {told + 1:,} has taken {waited:.0f} s, where {usual:.2g} s is usual. '
                    'This is where every thread is:',
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(sys.stderr.fileno(), all_threads=True)
