"""Protocols of the data that the loop reads; `palm_jax.data` implements them, and gin joins the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from palm_jax.run_directory import RunDirectory


class Vocabulary(Protocol):
    """The vocabulary of the data, for the record.

    Attributes:
      size: number of token ids.
      fingerprint: string that differs between vocabularies.
    """

    @property
    def size(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def save(self, directory: Path) -> None:
        """Write the vocabulary's file to a directory, if it has one."""


class Data(Protocol):
    """Training sequences by number, and a held-out part.

    Attributes:
      length: tokens per sequence.
      vocabulary: vocabulary of the tokens.
      labels: names of the labels that a head predicts; empty without a head.
      num_sequences: number of training sequences in one epoch.
      num_validation_sequences: number of sequences in the held-out part.
      group: number of sequences of similar length in a group, which a batch must not cross; None for no groups.
      is_ready: whether the data can be counted and read without preparing it first.
    """

    length: int
    vocabulary: Vocabulary
    labels: Sequence[str]
    num_sequences: int
    num_validation_sequences: int
    group: int | None
    is_ready: bool

    def prepare(self, run: RunDirectory) -> None:
        """Check the data before the training of a run, and use what the run has kept; called before it is read."""

    def batch(self, first: int, size: int) -> Mapping[str, np.ndarray]:
        """Return the training sequences first, first + 1, ...: features [size, L]."""

    def blank(self) -> Mapping[str, np.ndarray]:
        """Return an empty sequence, for the names, shapes and types of its features: [L]."""

    def validation(self, size: int) -> Iterator[Mapping[str, np.ndarray]]:
        """Iterate over the held-out part in batches of `size`."""

    def validation_by_length(self, size: int) -> Iterator[tuple[np.ndarray, Mapping[str, np.ndarray]]]:
        """Iterate over the whole held-out part in the order that needs the least padding.

        Yields:
          The numbers of the sequences [at most size], and a batch of them: features [size, at most L].
        """

    def describe(self) -> str:
        """Return both parts in numbers, as text for people, after reading and checking them.

        Raises:
          UserError: if either part cannot be used.
        """

    def identity(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what a run reads of each split, by content: numbers, and a SHA-256 that differs if anything does.

        It is kept with the checkpoints, and compared when a run is continued.
        """

    def example(self) -> str:
        """Return the first training example as text, for people."""
