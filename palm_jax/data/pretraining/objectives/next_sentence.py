"""Next sentence prediction: −log p(y | [CLS] a [SEP] b [SEP]), y whether b follows a; beside masked LM."""

from __future__ import annotations

import dataclasses

import numpy as np

from palm_jax.bounds import Positive
from palm_jax.data.pretraining.objectives.masked_lm import MaskedLM
from palm_jax.data.pretraining.objectives.sequences import pad
from palm_jax.special_ids import EOS_ID


@dataclasses.dataclass(frozen=True)
class NextSentence:
    """Next sentence prediction by a head on [CLS], together with masked language modeling: BERT's other objective
    (arXiv 1810.04805, section 3.1).

    A sequence is `[CLS] text [SEP] text [SEP]`; in half of them the second text is from elsewhere in the corpus.

    Attributes:
      masking: masked language modeling of the pair.
      share: see `Objective`.
    """

    masking: MaskedLM = dataclasses.field(default_factory=MaskedLM)
    share: Positive = 1.0
    labels = ('elsewhere', 'next')
    is_bidirectional = True

    def raw_length(self, length, vocabulary):
        vocabulary.special_id('[CLS]')
        return length - 3

    def __call__(self, tokens, length, vocabulary, rng, another):
        first, second = _split(_longest_document(tokens), rng)
        follows = int(rng.integers(2))
        if not follows:
            _, other = _split(_longest_document(another()), rng)
            second = other[: self.raw_length(length, vocabulary) - len(first)]
        cls, sep = vocabulary.special_id('[CLS]'), vocabulary.special_id('[SEP]')
        pair = np.r_[cls, first, sep, second, sep].astype(np.int32)
        is_text = np.isin(np.arange(len(pair)), (0, len(first) + 1, len(pair) - 1), invert=True)
        chosen = np.zeros(len(pair), bool)
        chosen[is_text] = self.masking.choose(pair[is_text], vocabulary, rng)
        features = self.masking.mask(pair, chosen, length, vocabulary, rng)
        return features | {
            'decoder_segment_ids': pad(np.ones(len(pair)), length),
            'labels': np.array(follows, np.int32),
            'label_weights': np.array(1, np.int32),
        }


def _longest_document(tokens: np.ndarray) -> np.ndarray:
    """Return the longest document in a sequence of tokens, without EOS."""
    pieces = np.split(tokens, np.flatnonzero(tokens == EOS_ID))
    return max((piece[piece != EOS_ID] for piece in pieces), key=len)


def _split(tokens: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split at a random position in the middle half."""
    cut = int(rng.integers(len(tokens) // 4, max(3 * len(tokens) // 4, len(tokens) // 4 + 1)))
    return tokens[:cut], tokens[cut:]
