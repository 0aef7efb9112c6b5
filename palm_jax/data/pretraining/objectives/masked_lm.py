"""Masked language modeling: −Σ log p(xₜ | x̃) over the chosen positions t of a text x, which x̃ hides."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np

from palm_jax.bounds import AtLeast, AtMost, Positive, checked
from palm_jax.data.pretraining.objectives.sequences import Features, Share, pad, share_of
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.errors import UserError
from palm_jax.special_ids import EOS_ID


@checked
@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """Masked language modeling, BERT's objective: masked tokens are predicted in place, with bidirectional attention
    (Devlin et al., arXiv 1810.04805, section 3.1).

    Attributes:
      rate: share of the tokens to predict.
      mask_share: share of those to replace by [MASK].
      random_share: share of those to replace by a random token of the vocabulary; the rest stays unchanged.
      whole_words: predict all tokens of a word together.
      share: see `Objective`.
    """

    rate: Share = 0.15
    mask_share: Annotated[float, AtLeast(0), AtMost(1)] = 0.8
    random_share: Annotated[float, AtLeast(0), AtMost(1)] = 0.1
    whole_words: bool = True
    share: Positive = 1.0
    labels = ()
    is_bidirectional = True

    def __post_init__(self):
        if not (self.mask_share >= 0 and self.random_share >= 0 and self.mask_share + self.random_share <= 1):
            raise UserError('MaskedLM.mask_share and random_share must be at least 0, and their sum at most 1.')

    def raw_length(self, length, vocabulary):
        vocabulary.special_id('[MASK]')
        return length

    def __call__(self, tokens, length, vocabulary, rng, another):
        del another
        chosen = self.choose(tokens, vocabulary, rng)
        return self.mask(tokens, chosen, length, vocabulary, rng)

    def choose(self, tokens: np.ndarray, vocabulary: ExtendedVocabulary, rng: np.random.Generator) -> np.ndarray:
        """Return bool [T], True where a token is to be predicted; never an EOS."""
        wanted = share_of(len(tokens), self.rate)
        starts = np.ones(len(tokens), bool)
        if self.whole_words:
            begins, ends = vocabulary.word_ends
            starts[1:] = ~(begins[tokens[1:]] & ends[tokens[:-1]])
        word_of = np.cumsum(starts) - 1
        sizes = np.bincount(word_of)
        order = rng.permutation(len(sizes))
        order = order[tokens[starts][order] != EOS_ID]
        taken, picked = 0, np.zeros(len(sizes), bool)
        for word in order:  # skip a word that is too long for the rest, as BERT does
            if taken + sizes[word] <= wanted:
                picked[word], taken = True, taken + sizes[word]
                if taken == wanted:
                    break
        return picked[word_of]

    def mask(self, tokens, chosen, length, vocabulary, rng) -> Features:
        """Return the features of `tokens` with the `chosen` ones masked."""
        draw = rng.random(len(tokens))
        inputs = np.where(chosen & (draw < self.mask_share), vocabulary.special_id('[MASK]'), tokens)
        others = rng.integers(EOS_ID + 1, vocabulary.text.size, len(tokens))
        is_random = (draw >= self.mask_share) & (draw < self.mask_share + self.random_share)
        inputs = np.where(chosen & is_random, others, inputs)
        return {
            'decoder_input_tokens': pad(inputs, length),
            'decoder_target_tokens': pad(tokens, length),
            'decoder_loss_weights': pad(chosen, length),
            'decoder_causal_attention': pad(np.ones(len(tokens)), length),
        }
