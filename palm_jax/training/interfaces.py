"""What the loop needs of the data; palm_jax.data supplies it, and gin joins the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np


class Vocabulary(Protocol):
    """What the loop needs of the vocabulary, for the record."""

    size: int
    fingerprint: str

    def save(self, directory: Path) -> None:
        """Writes its file there, where it has one."""


class Data(Protocol):
    """What the loop needs of the data: batches by number; names of a head's labels, or none.

    `group` is None, or how many sequences of like length stand together: batches may not cross its borders.
    """

    length: int
    vocabulary: Vocabulary
    labels: Sequence[str]
    num_sequences: int
    group: int | None
    is_ready: bool

    def batch(self, first: int, size: int) -> Mapping[str, np.ndarray]:
        """Training sequences first, first + 1, ...: features [size, L]."""

    def blank(self) -> Mapping[str, np.ndarray]:
        """A sequence for the names, shapes and types of its features: [L]."""

    def validation(self, size: int) -> Iterator[Mapping[str, np.ndarray]]:
        """The held-out part."""

    def example(self) -> str:
        """The first training example, for people."""
