"""A turn of a conversation."""

from __future__ import annotations

from typing import NamedTuple


class Turn(NamedTuple):
    """A text, whether the model learns to generate it, and its author: `system`, `user`, `assistant` or `tool`."""

    text: str
    learned: bool
    role: str = 'user'
