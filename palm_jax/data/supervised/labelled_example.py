"""A labelled text, or a labelled pair of texts, as a table has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from palm_jax.data.readers.columns import Labels


@dataclasses.dataclass(frozen=True)
class Example:
    """A text, or a pair of texts, with its label as the table has it, or its labels, and its group, if it has one."""

    text: str
    second_text: str | None
    label: Labels
    location: str
    group: str | None = None

    @classmethod
    def of(cls, texts: Sequence[str], label: Labels, location: str, group: str | None = None) -> Example:
        """Return the example of a text, or of both texts of a pair."""
        text, *second_text = texts
        return cls(text, second_text[0] if second_text else None, label, location, group)

    @property
    def texts(self) -> tuple[str, ...]:
        """The text or both texts."""
        return (self.text,) if self.second_text is None else (self.text, self.second_text)

    def map_texts(self, change: Callable[[str], str]) -> Example:
        """Return the example with changed texts."""
        second_text = None if self.second_text is None else change(self.second_text)
        return dataclasses.replace(self, text=change(self.text), second_text=second_text)
