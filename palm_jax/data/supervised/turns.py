"""A turn of a conversation."""

from __future__ import annotations

from typing import NamedTuple


class Turn(NamedTuple):
    """A text, and whether the model learns to generate it."""

    text: str
    learned: bool
