"""Self-supervised objectives: inputs, targets and loss weights from a sequence of tokens.

Every objective produces the same features, int32 [L], so that nothing on the device depends on the
objective: `decoder_input_tokens`, `decoder_target_tokens`, `decoder_loss_weights` (1 where the loss counts
a target) and, unless attention is causal everywhere, `decoder_causal_attention` (seqio's name: 1 where an
input is attended bidirectionally). NumPy only; `seqio_preprocessors.objective_preprocessors` is for seqio.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal, Protocol

import numpy as np

from palm_jax.bounds import Above, AtLeast, AtMost, Below, Positive, checked
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.errors import UserError
from palm_jax.special_ids import EOS_ID

Features = dict[str, np.ndarray]
Share = Annotated[float, Above(0), Below(1)]
Mode = Literal['[NLU]', '[NLG]', '[S2S]']


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
        features = _shift(tokens, length, vocabulary, first_learned=0)
        if not self.isolate_documents:
            return features
        starts = np.r_[True, tokens[:-1] == EOS_ID]
        indices = np.arange(len(tokens), dtype=np.int32)
        positions = indices - np.maximum.accumulate(np.where(starts, indices, 0))
        segments, begins = np.cumsum(starts, dtype=np.int32), _pad(~starts, length)
        if vocabulary.start_ids:
            features['decoder_input_tokens'] *= begins  # every document begins with BOS
        else:  # inputs are tokens in place, and the first token of a document follows from nothing
            positions, segments = positions[:-1], segments[:-1]
            features['decoder_loss_weights'] *= np.r_[begins[1:], 0].astype(np.int32)
        return features | {
            'decoder_segment_ids': _pad(segments, length),
            'decoder_positions': _pad(positions, length),
        }


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
        return length - len(_mode_ids(self.mode, vocabulary))

    def __call__(self, tokens, length, vocabulary, rng, another):
        del another
        mode, count = _mode_ids(self.mode, vocabulary), len(tokens)
        learned = int(rng.integers(1, max(count, 2))) if self.rate is None else _share_of(count, self.rate)
        return _as_prefix_lm(np.r_[mode, tokens], length, vocabulary, first_learned=len(mode) + count - learned)


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
        overhead = 2 + len(_mode_ids(self.mode, vocabulary))
        for count in range(length - overhead, 1, -1):
            _, num_spans = self.counts(count)
            if count + 2 * num_spans + overhead <= length:
                vocabulary.sentinel(num_spans - 1)  # raises an error if there are too few
                return count
        raise UserError(f"TASK_FEATURE_LENGTHS = {{'targets': {length}}} is too short for span corruption.")

    def counts(self, count: int) -> tuple[int, int]:
        """Return the number of tokens to remove from `count`, and the number of spans."""
        noise = _share_of(count, self.rate)
        return noise, min(max(round(noise / self.mean_span), 1), noise, count - noise)

    def __call__(self, tokens, length, vocabulary, rng, another):
        del another
        is_noise = self.noise(len(tokens), rng)
        sentinels = [vocabulary.sentinel(i) for i in range(self.counts(len(tokens))[1])]
        kept, cut = (_with_sentinels(tokens, mask, sentinels) for mask in (is_noise, ~is_noise))
        inputs = np.r_[_mode_ids(self.mode, vocabulary), kept, EOS_ID]
        return _as_prefix_lm(np.r_[inputs, cut, EOS_ID], length, vocabulary, first_learned=len(inputs))

    def noise(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return bool [count], True in spans: kept and removed segments alternate, each divided at random, as in T5."""
        noise, num_spans = self.counts(count)
        lengths = np.stack([_divide(count - noise, num_spans, rng), _divide(noise, num_spans, rng)], axis=1)
        return np.repeat(np.arange(2 * num_spans) % 2 == 1, lengths.ravel())


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
        wanted = _share_of(len(tokens), self.rate)
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
            'decoder_input_tokens': _pad(inputs, length),
            'decoder_target_tokens': _pad(tokens, length),
            'decoder_loss_weights': _pad(chosen, length),
            'decoder_causal_attention': _pad(np.ones(len(tokens)), length),
        }


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
            'decoder_segment_ids': _pad(np.ones(len(pair)), length),
            'labels': np.array(follows, np.int32),
            'label_weights': np.array(1, np.int32),
        }


def blank(objective: Objective, length: int, vocabulary: ExtendedVocabulary) -> Features:
    """Return a sequence of an objective without content: names, shapes and types of its features."""
    tokens = np.full(objective.raw_length(length, vocabulary), EOS_ID + 1, np.int32)
    return objective(tokens, length, vocabulary, np.random.default_rng(0), lambda: tokens)


# Shared by several objectives.


def _shift(tokens: np.ndarray, length: int, vocabulary: ExtendedVocabulary, first_learned: int) -> Features:
    """Return every token as the target of those before it, the first one only after a start token.

    The loss counts the tokens from number `first_learned` on.
    """
    whole = np.r_[np.array(vocabulary.start_ids, np.int32), tokens]
    learned = np.arange(len(whole)) >= first_learned + len(vocabulary.start_ids)
    return {
        'decoder_input_tokens': _pad(whole[:-1], length),
        'decoder_target_tokens': _pad(whole[1:], length),
        'decoder_loss_weights': _pad(learned[1:], length),
    }


def _as_prefix_lm(tokens: np.ndarray, length: int, vocabulary: ExtendedVocabulary, first_learned: int) -> Features:
    """Return `_shift` with the inputs before the first learned target attended bidirectionally."""
    prefix = np.arange(length) < first_learned + len(vocabulary.start_ids)
    return _shift(tokens, length, vocabulary, first_learned) | {'decoder_causal_attention': prefix.astype(np.int32)}


def _pad(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(np.asarray(values, np.int32), (0, length - len(values)))


def _mode_ids(mode: str | None, vocabulary: ExtendedVocabulary) -> list[int]:
    return [] if mode is None else [vocabulary.special_id(mode)]


def _share_of(count: int, rate: float) -> int:
    """Return the share `rate` of `count` tokens: at least one and, if there are two, not all."""
    return max(1, min(round(count * rate), count - 1))


def _divide(count: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Return the sizes [parts] of a random division of `count` items into non-empty parts, all equally likely."""
    cuts: np.ndarray | list[int] = np.sort(rng.choice(count - 1, parts - 1, replace=False)) + 1 if parts > 1 else []
    return np.diff(np.r_[0, cuts, count]).astype(int)


def _with_sentinels(tokens: np.ndarray, hidden: np.ndarray, sentinels: list[int]) -> np.ndarray:
    """Return the tokens that are not hidden, with sentinel number i in place of hidden span i."""
    begins = hidden & ~np.r_[False, hidden[:-1]]
    replaced = tokens.copy()
    replaced[begins] = sentinels[: begins.sum()]
    return replaced[~hidden | begins]


def _longest_document(tokens: np.ndarray) -> np.ndarray:
    """Return the longest document in a sequence of tokens, without EOS."""
    pieces = np.split(tokens, np.flatnonzero(tokens == EOS_ID))
    return max((piece[piece != EOS_ID] for piece in pieces), key=len)


def _split(tokens: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split at a random position in the middle half."""
    cut = int(rng.integers(len(tokens) // 4, max(3 * len(tokens) // 4, len(tokens) // 4 + 1)))
    return tokens[:cut], tokens[cut:]
