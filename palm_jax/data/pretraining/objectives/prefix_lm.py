"""Prefix language modeling: −Σ log p(xₜ | x₁ … xₜ₋₁) over t > P, where x₁ … x_P attend in both directions."""

from __future__ import annotations

import dataclasses

import numpy as np

from palm_jax.bounds import Positive, checked
from palm_jax.data.pretraining.objectives.sequences import Mode, Share, as_prefix_lm, mode_ids, share_of


@checked
@dataclasses.dataclass(frozen=True)
class PrefixLM:
    """Prefix language modeling: a sequence is predicted from its beginning, which is attended bidirectionally
    (Raffel et al., arXiv 1910.10683, section 3.2).

    Attributes:
      rate: share of the tokens to predict; None draws the length of the prefix uniformly, as T5 does.
      mode: mode token to prepend (UL2: [S2S]); None prepends none.
      share: see `Objective`.
    """

    rate: Share | None = None
    mode: Mode | None = None
    share: Positive = 1.0
    labels = ()
    is_bidirectional = True

    def raw_length(self, length, vocabulary):
        return length - len(mode_ids(self.mode, vocabulary))

    def __call__(self, tokens, length, vocabulary, rng, another):
        del another
        mode, count = mode_ids(self.mode, vocabulary), len(tokens)
        learned = int(rng.integers(1, max(count, 2))) if self.rate is None else share_of(count, self.rate)
        return as_prefix_lm(np.r_[mode, tokens], length, vocabulary, first_learned=len(mode) + count - learned)
