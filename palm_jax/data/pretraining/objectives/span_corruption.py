"""Span corruption: −Σₜ log p(zₜ | x̃, z₁ … zₜ₋₁), z the removed spans, x̃ the text with a sentinel for each."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np

from palm_jax.bounds import AtLeast, Positive, checked
from palm_jax.data.pretraining.objectives.sequences import Mode, Share, as_prefix_lm, mode_ids, share_of
from palm_jax.errors import UserError
from palm_jax.special_ids import EOS_ID


@checked
@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Span corruption: spans are replaced by sentinels and predicted after the text. T5's objective (arXiv 1910.10683,
    section 3.3), and with other parameters UL2's R- and X-denoisers (arXiv 2205.05131, table 1).

    A sequence is `[mode] text with sentinels EOS sentinel span sentinel span ... EOS`; the loss counts the tokens
    after the first EOS, and those before it are attended bidirectionally.

    Attributes:
      rate: share of the tokens to remove.
      mean_span: mean length of a span in tokens.
      mode: mode token to prepend (UL2: [NLU] and [NLG]); None prepends none.
      share: see `Objective`.
    """

    rate: Share = 0.15
    mean_span: Annotated[float, AtLeast(1)] = 3.0
    mode: Mode | None = None
    share: Positive = 1.0
    labels = ()
    is_bidirectional = True

    def raw_length(self, length, vocabulary):
        """Return the maximum number of tokens that fit with their sentinels, both EOS and the mode token."""
        overhead = 2 + len(mode_ids(self.mode, vocabulary))
        for count in range(length - overhead, 1, -1):
            _, num_spans = self.counts(count)
            if count + 2 * num_spans + overhead <= length:
                vocabulary.sentinel(num_spans - 1)  # raises an error if there are too few
                return count
        raise UserError(f"TASK_FEATURE_LENGTHS = {{'targets': {length}}} is too short for span corruption.")

    def counts(self, count: int) -> tuple[int, int]:
        """Return the number of tokens to remove from `count`, and the number of spans."""
        noise = share_of(count, self.rate)
        return noise, min(max(round(noise / self.mean_span), 1), noise, count - noise)

    def __call__(self, tokens, length, vocabulary, rng, another):
        del another
        is_noise = self.noise(len(tokens), rng)
        sentinels = [vocabulary.sentinel(i) for i in range(self.counts(len(tokens))[1])]
        kept, cut = (with_sentinels(tokens, mask, sentinels) for mask in (is_noise, ~is_noise))
        inputs = np.r_[mode_ids(self.mode, vocabulary), kept, EOS_ID]
        return as_prefix_lm(np.r_[inputs, cut, EOS_ID], length, vocabulary, first_learned=len(inputs))

    def noise(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return bool [count], True in spans: kept and removed segments alternate, each divided at random, as in T5."""
        noise, num_spans = self.counts(count)
        lengths = np.stack([_divide(count - noise, num_spans, rng), _divide(noise, num_spans, rng)], axis=1)
        return np.repeat(np.arange(2 * num_spans) % 2 == 1, lengths.ravel())


def _divide(count: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Return the sizes [parts] of a random division of `count` items into non-empty parts, all equally likely."""
    cuts: np.ndarray | list[int] = np.sort(rng.choice(count - 1, parts - 1, replace=False)) + 1 if parts > 1 else []
    return np.diff(np.r_[0, cuts, count]).astype(int)


def with_sentinels(tokens: np.ndarray, hidden: np.ndarray, sentinels: list[int]) -> np.ndarray:
    """Return the tokens that are not hidden, with sentinel number i in place of hidden span i."""
    begins = hidden & ~np.r_[False, hidden[:-1]]
    replaced = tokens.copy()
    replaced[begins] = sentinels[: begins.sum()]
    return replaced[~hidden | begins]
