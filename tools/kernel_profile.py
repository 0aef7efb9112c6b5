"""`--profile`: the kernels of some steps, the longest first, from a trace of jax.profiler."""

from __future__ import annotations

import collections
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

# Operations whose time is that of the operations within them.
_CONTAINER = re.compile(r'(while|conditional|call)(\.|$)')


class Kernel(NamedTuple):
    """All launches of one kernel.

    Attributes:
      name: name in the trace: the kernel's on a GPU, the operation's in the compiled program on a CPU.
      count: number of launches in a step.
      milliseconds: time of a step, summed over launches.
      share: share of the time of all kernels.
    """

    name: str
    count: float
    milliseconds: float
    share: float


def profile(step: Callable[[], Any], steps: int = 3) -> list[Kernel]:
    """Run some steps under the profiler.

    Args:
      step: function that runs one step to its end; it has been compiled.
      steps: number of steps.

    Returns:
      All kernels, the longest first.
    """
    with tempfile.TemporaryDirectory() as directory:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Python's own calls are not kernels
        with jax.profiler.trace(directory, profiler_options=options):
            for _ in range(steps):
                step()
        (trace,) = Path(directory).rglob('*.xplane.pb')
        return longest(_kernels(jax.profiler.ProfileData.from_file(str(trace))), steps)


def longest(events: Iterable[tuple[str, float]], steps: int) -> list[Kernel]:
    """Sum events (name, nanoseconds) by name.

    Operations that differ in their number alone, such as `fusion.3` and `fusion.7`, stay apart.
    """
    count: collections.Counter[str] = collections.Counter()
    nanoseconds: collections.Counter[str] = collections.Counter()
    for name, duration in events:
        count[name] += 1
        nanoseconds[name] += duration
    total = sum(nanoseconds.values()) or 1.0
    return [
        Kernel(name, count[name] / steps, duration / steps / 1e6, duration / total)
        for name, duration in nanoseconds.most_common()
    ]


def as_text(kernels: list[Kernel], most: int = 30) -> str:
    """Return a table of the longest kernels and a line for all others."""
    shown, rest = kernels[:most], kernels[most:]
    lines = [f'{"ms a step":>10}{"share":>8}{"calls":>8}  kernel']
    lines += [f'{k.milliseconds:>10.3f}{k.share:>8.1%}{k.count:>8.1f}  {k.name[:140]}' for k in shown]
    if rest:
        milliseconds, share = sum(k.milliseconds for k in rest), sum(k.share for k in rest)
        lines.append(f'{milliseconds:>10.3f}{share:>8.1%}{"":>8}  {len(rest)} others')
    lines.append(f'{sum(k.milliseconds for k in kernels):>10.3f}{"":>16}  all')
    return '\n'.join(lines)


def _kernels(data: Any) -> Iterable[tuple[str, float]]:
    """Events of the device: kernels in a GPU's streams, or operations of compiled programs on a CPU."""
    planes = list(data.planes)
    devices = [plane for plane in planes if re.match(r'/device:(GPU|TPU)', plane.name)]
    for plane in devices or planes:
        for line in plane.lines:
            if devices and not re.match(r'Stream|XLA Ops', line.name):
                continue  # summaries, which would count the same time again
            for event in line.events:
                if _CONTAINER.match(event.name):
                    continue
                if devices or any(name == 'hlo_op' for name, _ in event.stats):
                    yield event.name, event.duration_ns
