"""Tables that the applications write."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a CSV file."""
    with path.open('w', encoding='utf-8', newline='') as file:
        csv.writer(file).writerows([header, *rows])
