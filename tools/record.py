"""The record of finished runs: a file with a line a run, with which the work goes on, also on another machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax

from palm_jax import __version__
from palm_jax.wording import counted


class Record:
    """Finished runs, as lines of a file.

    Args:
      path: the file; it need not exist.

    Attributes:
      lines: the runs, in the order in which they finished.
    """

    def __init__(self, path: Path):
        self._path = path
        lines = path.read_bytes().splitlines() if path.is_file() else []
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def add(self, line: dict[str, Any]) -> None:
        """Append a run, with what it ran on."""
        # Fewer than the machine has, where the process is bound to some of them.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        line = line | {'machine': f'palm_jax {__version__}, jax {jax.__version__}, {counted(cores, "CPU core")}'}
        with self._path.open('a', encoding='utf-8') as file:
            file.write(json.dumps(line) + '\n')
        self.lines.append(line)

    def find(self, **values: Any) -> list[dict[str, Any]]:
        """Return the lines with these values."""
        return [line for line in self.lines if all(line.get(name) == value for name, value in values.items())]
