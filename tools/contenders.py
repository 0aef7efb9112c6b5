"""Contenders of a benchmark, each in a process of its own, which take steps in turn.

If the speed of the machine drifts, it affects all of them alike; ratios are those of medians. A contender sleeps while
another one works, so threads and heaps do not interfere.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import jax

from palm_jax.errors import UserError
from palm_jax.progress_bar import tqdm
from tools import kernel_profile

# The packages of each other implementation.
PEERS = {
    'palm-rlhf-pytorch': ('torch', 'palm_rlhf_pytorch'),
    'transformers': ('torch', 'transformers'),
    'peft': ('torch', 'transformers', 'peft'),
}


@dataclasses.dataclass
class Trainer:
    """The workload of a contender.

    Attributes:
      step: function that runs one step to its end.
      facts: numbers and texts for the report.
      peak_memory: function that returns the peak memory in bytes; None if unknown.
    """

    step: Callable[..., None]
    facts: dict[str, Any]
    peak_memory: Callable[[], int | None]


class Contender:
    """A trainer in a process of its own.

    Args:
      name: name of its row.
      make: function that returns the trainer, called in the new process.

    Attributes:
      facts: facts of the trainer.
      seconds: seconds of every step so far.
    """

    def __init__(self, name: str, make: Callable[[], Trainer]):
        self.name = name
        self.seconds: list[float] = []
        context = multiprocessing.get_context('spawn')
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self._process.start()
        theirs.close()
        self.facts = self._receive()

    def step(self, *arguments: Any) -> float:
        """Run one step; return its seconds, measured in its process."""
        self.seconds.append(self._ask('step', *arguments))
        return self.seconds[-1]

    def memory(self) -> int | None:
        """Return the peak memory so far, in bytes; None if unknown."""
        return self._ask('memory')

    def profile(self, *arguments: Any) -> list[kernel_profile.Kernel]:
        """Return the kernels of some steps; see `kernel_profile.profile`."""
        return [kernel_profile.Kernel(*kernel) for kernel in self._ask('profile', *arguments)]

    def stop(self) -> None:
        """End the process."""
        self._connection.send(None)
        self._process.join()

    def _ask(self, *request: Any) -> Any:
        self._connection.send(request)
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise UserError(f'{self.name} ended unexpectedly; see its message above.') from None

    @property
    def median(self) -> float:
        """Seconds of the median step."""
        return statistics.median(self.seconds)


def _serve(connection: Connection, make: Callable[[], Trainer]) -> None:
    """Run a contender: make the trainer, and run steps on request."""
    trainer = make()
    connection.send(trainer.facts)
    while (request := connection.recv()) is not None:
        name, *arguments = request
        if name == 'memory':
            connection.send(trainer.peak_memory())
        elif name == 'profile':
            kernels = kernel_profile.profile(functools.partial(trainer.step, *arguments))
            connection.send([tuple(kernel) for kernel in kernels])
        else:
            start = time.perf_counter()
            trainer.step(*arguments)
            connection.send(time.perf_counter() - start)


def check_peers(names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse other implementations that are unknown or not installed, before anything is measured.

    Args:
      names: names from the command line.
      known: names that the benchmark can measure, of `PEERS`.

    Raises:
      UserError: with the command that installs them.
    """
    for name in names:
        if name not in known:
            raise UserError(f'--against: unknown {name!r}. Known: {", ".join(known)}.')
        if missing := missing_packages(name):
            raise UserError(
                f'--against={name} needs packages that are not installed here: {", ".join(missing)}. '
                "In a clone of the repository: pip install '.[peers]'"
            )


def missing_packages(peer: str) -> list[str]:
    """Return the packages of another implementation that are not installed."""
    return [package for package in PEERS[peer] if importlib.util.find_spec(package) is None]


def write(text: str) -> None:
    """Print a result above the progress bars at once, also where the output is a file or a pipe."""
    tqdm.write(text)
    sys.stdout.flush()


def choose_device(device: str | None) -> None:
    """Select the device of `--device`; a GPU is shared with the other contenders, and what it compiles is measured."""
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    jax.config.update('jax_enable_compilation_cache', False)
    if device:
        jax.config.update('jax_platforms', {'gpu': 'cuda'}.get(device, device))


def resident_bytes() -> int:
    """Return the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
