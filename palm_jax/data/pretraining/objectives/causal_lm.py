"""Causal language modeling: −Σₜ log p(xₜ | x₁ … xₜ₋₁) (Chowdhery et al., arXiv 2204.02311)."""

from __future__ import annotations

import dataclasses

import numpy as np

from palm_jax.bounds import Positive
from palm_jax.data.pretraining.objectives.sequences import pad, shift
from palm_jax.special_ids import EOS_ID


@dataclasses.dataclass(frozen=True)
class CausalLM:
    """Causal language modeling, PaLM's objective: every token is predicted from those before it.

    Attributes:
      isolate_documents: restrict attention and positions to one document. PaLM did not.
      share: see `Objective`.
    """

    isolate_documents: bool = False
    share: Positive = 1.0
    labels = ()
    is_bidirectional = False

    def raw_length(self, length, vocabulary):
        del vocabulary
        return length

    def __call__(self, tokens, length, vocabulary, rng, another):
        del rng, another
        features = shift(tokens, length, vocabulary, first_learned=0)
        if not self.isolate_documents:
            return features
        starts = np.r_[True, tokens[:-1] == EOS_ID]
        indices = np.arange(len(tokens), dtype=np.int32)
        positions = indices - np.maximum.accumulate(np.where(starts, indices, 0))
        segments, begins = np.cumsum(starts, dtype=np.int32), pad(~starts, length)
        if vocabulary.start_ids:
            features['decoder_input_tokens'] *= begins  # every document begins with BOS
        else:  # inputs are tokens in place, and the first token of a document follows from nothing
            positions, segments = positions[:-1], segments[:-1]
            features['decoder_loss_weights'] *= np.r_[begins[1:], 0].astype(np.int32)
        return features | {
            'decoder_segment_ids': pad(segments, length),
            'decoder_positions': pad(positions, length),
        }
