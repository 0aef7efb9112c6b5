"""Features of a sequence of tokens, and what else several objectives need."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from palm_jax.bounds import Above, Below
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary

Features = dict[str, np.ndarray]
Share = Annotated[float, Above(0), Below(1)]
Mode = Literal['[NLU]', '[NLG]', '[S2S]']


def shift(tokens: np.ndarray, length: int, vocabulary: ExtendedVocabulary, first_learned: int) -> Features:
    """Return every token as the target of those before it, the first one only after a start token.

    The loss counts the tokens from number `first_learned` on.
    """
    whole = np.r_[np.array(vocabulary.start_ids, np.int32), tokens]
    learned = np.arange(len(whole)) >= first_learned + len(vocabulary.start_ids)
    return {
        'decoder_input_tokens': pad(whole[:-1], length),
        'decoder_target_tokens': pad(whole[1:], length),
        'decoder_loss_weights': pad(learned[1:], length),
    }


def as_prefix_lm(tokens: np.ndarray, length: int, vocabulary: ExtendedVocabulary, first_learned: int) -> Features:
    """Return `shift` with the inputs before the first learned target attended bidirectionally."""
    prefix = np.arange(length) < first_learned + len(vocabulary.start_ids)
    return shift(tokens, length, vocabulary, first_learned) | {'decoder_causal_attention': prefix.astype(np.int32)}


def pad(values: np.ndarray, length: int) -> np.ndarray:
    """Return values as int32 [L], with zeros at the end."""
    return np.pad(np.asarray(values, np.int32), (0, length - len(values)))


def mode_ids(mode: str | None, vocabulary: ExtendedVocabulary) -> list[int]:
    """Return the id of a mode token, or no id for None."""
    return [] if mode is None else [vocabulary.special_id(mode)]


def share_of(count: int, rate: float) -> int:
    """Return the share `rate` of `count` tokens: at least one and, if there are two, not all."""
    return max(1, min(round(count * rate), count - 1))
