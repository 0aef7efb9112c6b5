"""An output to explain, with the row of tokens that it depends on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from palm_jax.explanations.words import Word
from palm_jax.labels.label_kind import Margin
from palm_jax.special_ids import PAD_ID


@dataclasses.dataclass(frozen=True)
class HeadOutput:
    """Scores of a head: the sum of the margins that they give.

    Attributes:
      margins: margin of the label at each position.
      positions: positions in the row whose scores are read; None where the head scores the row as a whole.
    """

    margins: tuple[Margin, ...]
    positions: tuple[int, ...] | None = None

    @property
    def unit(self) -> str:
        """What the value is."""
        return 'log-odds' if self.margins[0].is_log_odds else 'number'

    def probability(self, value: float) -> float | None:
        """Return the probability of a value, for several positions of their mean; None for a number."""
        if not self.margins[0].is_log_odds:
            return None
        return 1 / (1 + math.exp(min(-value / len(self.margins), 700)))

    @property
    def decision(self) -> HeadOutput | None:
        """The output that is above 0 where the label, or the first tag of an entity, is decided; None for a number."""
        first = self.margins[0]
        if not first.is_log_odds:
            return None
        margins = (dataclasses.replace(first, is_of_decision=True),)
        return HeadOutput(margins, None if self.positions is None else self.positions[:1])

    def of_label(self, label: str, index: int, count: int) -> HeadOutput:
        """Return the output that is above 0 where another of `count` labels is decided, at the first position."""
        others = tuple(i for i in range(count) if i != index)
        margins = (Margin(label, index, others, is_of_decision=True),)
        return HeadOutput(margins, None if self.positions is None else self.positions[:1])

    def moved(self, to: Mapping[int, int]) -> HeadOutput:
        """Return the same output of a row whose tokens have new positions."""
        positions = self.positions
        return self if positions is None else dataclasses.replace(self, positions=tuple(to[i] for i in positions))


@dataclasses.dataclass(frozen=True)
class AnswerOutput:
    """A written answer: the sum of the log-probabilities of its tokens.

    Attributes:
      targets: token ids of the answer.
      positions: position in the row that predicts each of them.
    """

    targets: tuple[int, ...]
    positions: tuple[int, ...]

    unit = 'log-probability'
    decision = None

    def probability(self, value: float) -> float:
        """Return the geometric mean of the tokens' probabilities."""
        return math.exp(value / len(self.targets))

    def moved(self, to: Mapping[int, int]) -> AnswerOutput:
        """Return the same output of a row whose tokens have new positions."""
        return dataclasses.replace(self, positions=tuple(to[i] for i in self.positions))


@dataclasses.dataclass(frozen=True)
class Explainable:
    """A row of tokens and the output for it that is to be explained.

    Attributes:
      ids: token ids that the model reads.
      words: words of the row; only their tokens are explained, changed and left out.
      label: name of what is explained: a label, a tag with its entity, an answer.
      output: output as a function of the row.
      num_bidirectional: number of leading tokens that attend to one another in both directions.
      labels: labels of which the one with the highest score is the decision; empty where labels do not exclude one
        another.
    """

    ids: tuple[int, ...]
    words: tuple[Word, ...]
    label: str
    output: Any
    num_bidirectional: int = 0
    labels: tuple[str, ...] = ()

    def without(self, removed: Collection[int]) -> Explainable:
        """Return the row without some words, whose tokens are deleted.

        A word of a tagger whose own tag is explained has to keep its position: its tokens become padding instead.

        Args:
          removed: numbers of words.
        """
        tokens = {i for word in removed for i in self.words[word].tokens}
        read = set(self.output.positions or ()) if isinstance(self.output, HeadOutput) else set()
        deleted = tokens - {i for word in self.words if read & set(word.tokens) for i in word.tokens}
        if isinstance(self.output, AnswerOutput) and deleted >= set(range(self.output.positions[0] + 1)):
            deleted -= {0}  # an answer needs something before it, also without a start token
        to: dict[int, int] = {}
        ids: list[int] = []
        for i, token in enumerate(self.ids):
            if i not in deleted:
                ids.append(PAD_ID if i in tokens else token)
            to[i] = max(len(ids) - 1, 0)  # of a deleted token: the last one before it
        words = tuple(
            dataclasses.replace(word, tokens=tuple(to[i] for i in word.tokens if i not in deleted))
            for number, word in enumerate(self.words)
            if number not in set(removed)
        )
        bidirectional = sum(i not in deleted for i in range(self.num_bidirectional))
        return Explainable(tuple(ids), words, self.label, self.output.moved(to), bidirectional, self.labels)
