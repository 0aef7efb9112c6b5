"""The interface of an objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from palm_jax.data.pretraining.objectives.sequences import Features
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.special_ids import EOS_ID


class Objective(Protocol):
    """A method to make training sequences.

    Attributes:
      is_bidirectional: whether its features include `decoder_causal_attention`.
    """

    is_bidirectional: bool

    @property
    def share(self) -> float:
        """Share of the sequences, relative to the other objectives of a mixture."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of its head; empty if it has none."""

    def raw_length(self, length: int, vocabulary: ExtendedVocabulary) -> int:
        """Return the number of tokens of text that become a sequence of `length`."""

    def __call__(
        self,
        tokens: np.ndarray,
        length: int,
        vocabulary: ExtendedVocabulary,
        rng: np.random.Generator,
        another: Callable[[], np.ndarray],
    ) -> Features:
        """Return the features of a sequence.

        Args:
          tokens: tokens of text, int32, at most `raw_length` of them.
          length: L of the features.
          vocabulary: vocabulary with the special tokens.
          rng: generator for all random choices.
          another: function that returns the tokens of another random sequence of the corpus.
        """


def blank(objective: Objective, length: int, vocabulary: ExtendedVocabulary) -> Features:
    """Return a sequence of an objective without content: names, shapes and types of its features."""
    tokens = np.full(objective.raw_length(length, vocabulary), EOS_ID + 1, np.int32)
    return objective(tokens, length, vocabulary, np.random.default_rng(0), lambda: tokens)
