"""The interface of vocabularies, and how a run keeps one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from palm_jax.data.vocabulary.chat_template import ChatTemplate
from palm_jax.run_directory import write_whole

Ids: TypeAlias = Sequence[int] | np.ndarray


class Vocabulary(Protocol):
    """The interface of vocabularies."""

    @property
    def size(self) -> int:
        """Number of ids."""

    @property
    def fingerprint(self) -> str:
        """Name of the exact mapping; checkpoints contain it."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without EOS."""

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return `encode(text)` for every text, computed on all cores."""

    def decode(self, ids: Ids) -> str:
        """Return the text of ids, without padding and EOS."""

    @property
    def has_text(self) -> np.ndarray:
        """bool [V]: whether an id stands for text, which padding, EOS, an unknown piece and an unused id do not."""

    @property
    def start_ids(self) -> tuple[int, ...]:
        """Ids before every text: BOS, or none if the base was trained without a start token."""

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How the base writes messages of chats; None if it was not trained on any."""

    @property
    def prefix_id(self) -> int:
        """Id that stands for the beginning of a text where nothing else does: a prompt must not be empty."""

    @property
    def unknown_id(self) -> int | None:
        """Id of what has no other; None if every text can be encoded."""

    def token_bytes(self, i: int) -> bytes | None:
        """Return the UTF-8 bytes that an id adds to a text; None if it adds none, such as EOS."""

    def save(self, directory: Path) -> None:
        """Write the vocabulary to its file in a directory, if it has one."""


def byte_of(piece: str) -> bytes:
    """Return the byte that a piece such as `<0xE4>` stands for."""
    return bytes([int(piece[3:5], 16)])


def write_vocabulary(file: Path, content: bytes) -> None:
    """Write the vocabulary of a run, unless its file has this content."""
    if not file.is_file() or file.read_bytes() != content:
        write_whole(file, content)
