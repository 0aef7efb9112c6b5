"""Answers that are quoted from their input, as in extractive question answering, and those that the cut removes."""

from __future__ import annotations

from collections.abc import Sequence


class CutAnswers:
    """Counts, of examples with one answer, those whose input contains it before and after the input was truncated."""

    def __init__(self) -> None:
        self._examples = self._quoted = self._removed = 0

    def add(self, text: str, kept: str, answers: Sequence[str]) -> None:
        """Count an example.

        Args:
          text: its whole input.
          kept: what the model reads of it.
          answers: all correct answers.
        """
        self._examples += 1
        if _contains(text, answers):
            self._quoted += 1
            self._removed += not _contains(kept, answers)

    def warning(self, what: str) -> str:
        """Return how many answers the cut removes, or an empty text if it removes none or most are not quoted.

        Args:
          what: what the examples are, in the plural.
        """
        if not self._removed or 2 * self._quoted < self._examples:
            return ''
        return (
            f'{self._removed:,} of {self._quoted:,} answers in the inputs of {what} '
            f'({self._removed / self._quoted:.1%}) are in the part that is cut off: the model cannot know them'
        )


def _contains(text: str, answers: Sequence[str]) -> bool:
    words = ' '.join(text.split()).casefold()
    return any(answer.strip() and ' '.join(answer.split()).casefold() in words for answer in answers)
