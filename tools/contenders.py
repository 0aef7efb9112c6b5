"""What is measured against each other: each in a process of its own, a step in turn.

A machine whose speed drifts then slows all of them alike; ratios are of medians. A contender
sleeps while another works: threads and heaps do not meet.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import jax

from palm_jax.errors import UserError


@dataclasses.dataclass
class Trainer:
    """Something that works: `step(...)` runs one step to its end; `facts` are numbers and texts about it."""

    step: Callable[..., None]
    facts: dict[str, Any]
    peak_memory: Callable[[], int | None]


class Contender:
    """A trainer in a process of its own.

    Args:
      name: of its row.
      make: makes the trainer, in the new process.
    """

    def __init__(self, name: str, make: Callable[[], Trainer]):
        self.name, self.seconds = name, []
        context = multiprocessing.get_context('spawn')
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self._process.start()
        theirs.close()
        self.facts = self._receive()

    def step(self, *arguments: Any) -> float:
        """One step, timed where it runs."""
        self._connection.send(arguments)
        self.seconds.append(self._receive())
        return self.seconds[-1]

    def stop(self) -> None:
        """Ends the process; `peak_memory` is known from then on."""
        self._connection.send(None)
        self.peak_memory = self._receive()
        self._process.join()

    def _receive(self):
        try:
            return self._connection.recv()
        except EOFError:
            raise UserError(f'{self.name} ended; its message is above.') from None

    @property
    def median(self) -> float:
        """Seconds of the median step."""
        return statistics.median(self.seconds)


def _serve(connection: Connection, make: Callable[[], Trainer]) -> None:
    """A contender's process: makes the trainer, then steps when it is told to."""
    trainer = make()
    connection.send(trainer.facts)
    while (arguments := connection.recv()) is not None:
        start = time.perf_counter()
        trainer.step(*arguments)
        connection.send(time.perf_counter() - start)
    connection.send(trainer.peak_memory())


def choose_device(device: str | None) -> None:
    """What `--device` says; a GPU is shared with the other contenders."""
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    if device:
        jax.config.update('jax_platforms', {'gpu': 'cuda'}.get(device, device))


def resident_bytes() -> int:
    """The most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
