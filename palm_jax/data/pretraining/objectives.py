"""What the model reads of a sequence of tokens, and what it is to predict.

Every objective becomes the same features, int32 [L], so that nothing on the device knows which
one runs: `decoder_input_tokens`, `decoder_target_tokens`, `decoder_loss_weights` (1 where a target
counts) and, where not all is causal, `decoder_causal_attention` (seqio's name: 1 where an input is
seen both ways). NumPy alone; `seqio_preprocessors.objective_preprocessors` gives them to seqio.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal, Protocol

import numpy as np

from palm_jax.bounds import Above, AtLeast, Below, checked
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import EOS_ID
from palm_jax.errors import UserError

Features = dict[str, np.ndarray]
Share = Annotated[float, Above(0), Below(1)]
Mode = Literal['[NLU]', '[NLG]', '[S2S]']


class Objective(Protocol):
    """A way to make training sequences.

    Attributes:
      share: of the sequences, against the other objectives of a mixture.
      labels: names of the classes of its head, where it has one.
      is_bidirectional: whether its features have `decoder_causal_attention`.
    """

    share: float
    labels: tuple[str, ...]
    is_bidirectional: bool

    def raw_length(self, length: int, vocabulary: ExtendedVocabulary) -> int:
        """How many tokens of text become a sequence of `length`."""

    def __call__(
        self,
        tokens: np.ndarray,
        length: int,
        vocabulary: ExtendedVocabulary,
        rng: np.random.Generator,
        another: Callable[[], np.ndarray],
    ) -> Features:
        """One sequence.

        Args:
          tokens: int32, at most `raw_length` of them.
          length: L of the features.
          vocabulary: for the marks.
          rng: of all random choices.
          another: gives the tokens of another random place in the corpus.
        """


@dataclasses.dataclass(frozen=True)
class CausalLM:
    """Every token is predicted from those before it: PaLM's objective.

    Attributes:
      isolate_documents: attention and positions do not cross documents. PaLM's did.
      share: see `Objective`.
    """

    isolate_documents: bool = False
    share: float = 1.0
    labels = ()
    is_bidirectional = False

    def raw_length(self, length, vocabulary):
        del vocabulary
        return length

    def __call__(self, tokens, length, vocabulary, rng, another):
        del vocabulary, rng, another
        features = _shifted(tokens, length, first_learned=0)
        if not self.isolate_documents:
            return features
        starts = np.r_[True, tokens[:-1] == EOS_ID]
        columns = np.arange(len(tokens), dtype=np.int32)
        positions = columns - np.maximum.accumulate(np.where(starts, columns, 0))
        features['decoder_input_tokens'][: len(tokens)] *= positions > 0  # every document starts behind a 0
        segments = np.cumsum(starts, dtype=np.int32)
        return features | {
            'decoder_segment_ids': _padded(segments, length),
            'decoder_positions': _padded(positions, length),
        }


@checked
@dataclasses.dataclass(frozen=True)
class PrefixLM:
    """The end of a sequence is predicted from its beginning, which is seen both ways (Raffel et al.,
    arXiv 1910.10683, section 3.2).

    Attributes:
      rate: share of the tokens that are predicted; None draws the place of the cut evenly, as T5 does.
      mode: a mark in front that names the kind of denoising (UL2: [S2S]).
      share: see `Objective`.
    """

    rate: Share | None = None
    mode: Mode | None = None
    share: float = 1.0
    labels = ()
    is_bidirectional = True

    def raw_length(self, length, vocabulary):
        return length - len(_mode(self.mode, vocabulary))

    def __call__(self, tokens, length, vocabulary, rng, another):
        del another
        mode, count = _mode(self.mode, vocabulary), len(tokens)
        learned = int(rng.integers(1, max(count, 2))) if self.rate is None else _share_of(count, self.rate)
        return _prefixed(np.r_[mode, tokens], length, first_learned=len(mode) + count - learned)


@checked
@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Spans are cut out, a sentinel in the place of each, and are predicted behind the rest: T5's objective
    (arXiv 1910.10683, section 3.3), and with other numbers UL2's R- and X-denoisers (arXiv 2205.05131, table 1).

    A sequence is `[mode] text with sentinels EOS sentinel span sentinel span ... EOS`; the loss
    counts what follows the first EOS, and what precedes it is seen both ways.

    Attributes:
      rate: share of the tokens that are cut out.
      mean_span: tokens of a span on average.
      mode: a mark in front that names the kind of denoising (UL2: [NLU] and [NLG]).
      share: see `Objective`.
    """

    rate: Share = 0.15
    mean_span: Annotated[float, AtLeast(1)] = 3.0
    mode: Mode | None = None
    share: float = 1.0
    labels = ()
    is_bidirectional = True

    def raw_length(self, length, vocabulary):
        """The most tokens that fit with their sentinels, both end marks and the mode."""
        around = 2 + len(_mode(self.mode, vocabulary))
        for count in range(length - around, 1, -1):
            _, num_spans = self.counts(count)
            if count + 2 * num_spans + around <= length:
                vocabulary.sentinel(num_spans - 1)  # which says so where there are too few
                return count
        raise UserError(f"TASK_FEATURE_LENGTHS = {{'targets': {length}}} is too short for span corruption.")

    def counts(self, count: int) -> tuple[int, int]:
        """How many of `count` tokens are cut out, and in how many spans."""
        noise = _share_of(count, self.rate)
        return noise, min(max(round(noise / self.mean_span), 1), noise, count - noise)

    def __call__(self, tokens, length, vocabulary, rng, another):
        del another
        is_noise = self.noise(len(tokens), rng)
        sentinels = [vocabulary.sentinel(i) for i in range(self.counts(len(tokens))[1])]
        kept, cut = (_with_sentinels(tokens, mask, sentinels) for mask in (is_noise, ~is_noise))
        inputs = np.r_[_mode(self.mode, vocabulary), kept, EOS_ID]
        return _prefixed(np.r_[inputs, cut, EOS_ID], length, first_learned=len(inputs))

    def noise(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """bool [count], True inside the spans: kept and cut parts take turns, each divided at random, as in T5."""
        noise, num_spans = self.counts(count)
        lengths = np.stack([_divided(count - noise, num_spans, rng), _divided(noise, num_spans, rng)], axis=1)
        return np.repeat(np.arange(2 * num_spans) % 2 == 1, lengths.ravel())


@checked
@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """Some tokens are hidden and predicted in their places, everything seen both ways: BERT's objective
    (Devlin et al., arXiv 1810.04805, section 3.1).

    Attributes:
      rate: share of the tokens that are predicted.
      mask_share, random_share: of those, how many become [MASK] and how many another token of the
        vocabulary; the rest stays as it is.
      whole_words: the tokens of a word are predicted together.
      share: see `Objective`.
    """

    rate: Share = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_words: bool = True
    share: float = 1.0
    labels = ()
    is_bidirectional = True

    def __post_init__(self):
        if not (self.mask_share >= 0 and self.random_share >= 0 and self.mask_share + self.random_share <= 1):
            raise UserError('MaskedLM.mask_share and random_share must not be negative, nor more than 1 together.')

    def raw_length(self, length, vocabulary):
        vocabulary.special_id('[MASK]')
        return length

    def __call__(self, tokens, length, vocabulary, rng, another):
        del another
        chosen = self.chosen(tokens, vocabulary, rng)
        return self.hidden(tokens, chosen, length, vocabulary, rng)

    def chosen(self, tokens: np.ndarray, vocabulary: ExtendedVocabulary, rng: np.random.Generator) -> np.ndarray:
        """bool [T], True where a token is to be predicted; never an end mark."""
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
        for word in order:  # a word that is too long for what is left is passed over, as in BERT
            if taken + sizes[word] <= wanted:
                picked[word], taken = True, taken + sizes[word]
                if taken == wanted:
                    break
        return picked[word_of]

    def hidden(self, tokens, chosen, length, vocabulary, rng) -> Features:
        """The features of tokens of which the `chosen` are hidden."""
        fate = rng.random(len(tokens))
        inputs = np.where(chosen & (fate < self.mask_share), vocabulary.special_id('[MASK]'), tokens)
        others = rng.integers(EOS_ID + 1, vocabulary.text.size, len(tokens))
        is_random = (fate >= self.mask_share) & (fate < self.mask_share + self.random_share)
        inputs = np.where(chosen & is_random, others, inputs)
        return {
            'decoder_input_tokens': _padded(inputs, length),
            'decoder_target_tokens': _padded(tokens, length),
            'decoder_loss_weights': _padded(chosen, length),
            'decoder_causal_attention': _padded(np.ones(len(tokens)), length),
        }


@dataclasses.dataclass(frozen=True)
class NextSentence:
    """Does the second text follow the first? Asked together with masked LM, of a head on [CLS]: BERT's other objective
    (arXiv 1810.04805, section 3.1).

    A sequence is `[CLS] text [SEP] text [SEP]`; one time in two the second text is from another place.

    Attributes:
      masking: how tokens are hidden.
      share: see `Objective`.
    """

    masking: MaskedLM = dataclasses.field(default_factory=MaskedLM)
    share: float = 1.0
    labels = ('elsewhere', 'next')
    is_bidirectional = True

    def raw_length(self, length, vocabulary):
        vocabulary.special_id('[CLS]')
        return length - 3

    def __call__(self, tokens, length, vocabulary, rng, another):
        first, second = _in_two(_longest_document(tokens), rng)
        follows = int(rng.integers(2))
        if not follows:
            _, other = _in_two(_longest_document(another()), rng)
            second = other[: self.raw_length(length, vocabulary) - len(first)]
        cls, sep = vocabulary.special_id('[CLS]'), vocabulary.special_id('[SEP]')
        pair = np.r_[cls, first, sep, second, sep].astype(np.int32)
        is_text = np.isin(np.arange(len(pair)), (0, len(first) + 1, len(pair) - 1), invert=True)
        chosen = np.zeros(len(pair), bool)
        chosen[is_text] = self.masking.chosen(pair[is_text], vocabulary, rng)
        features = self.masking.hidden(pair, chosen, length, vocabulary, rng)
        return features | {
            'decoder_segment_ids': _padded(np.ones(len(pair)), length),
            'labels': np.array(follows, np.int32),
            'label_weights': np.array(1, np.int32),
        }


def blank(objective: Objective, length: int, vocabulary: ExtendedVocabulary) -> Features:
    """A sequence of an objective without content: names, shapes and types of its features."""
    some = np.full(objective.raw_length(length, vocabulary), EOS_ID + 1, np.int32)
    return objective(some, length, vocabulary, np.random.default_rng(0), lambda: some)


# What they share.


def _shifted(tokens: np.ndarray, length: int, first_learned: int) -> Features:
    """Inputs are the targets shifted right behind a 0; the loss counts targets from `first_learned` on."""
    return {
        'decoder_input_tokens': _padded(np.r_[0, tokens[:-1]], length),
        'decoder_target_tokens': _padded(tokens, length),
        'decoder_loss_weights': _padded(np.arange(len(tokens)) >= first_learned, length),
    }


def _prefixed(tokens: np.ndarray, length: int, first_learned: int) -> Features:
    """`_shifted`, and what precedes the first learned target is seen both ways."""
    prefix = np.arange(length) <= first_learned  # inputs stand one to the right of targets
    return _shifted(tokens, length, first_learned) | {'decoder_causal_attention': prefix.astype(np.int32)}


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(np.asarray(values, np.int32), (0, length - len(values)))


def _mode(mode: str | None, vocabulary: ExtendedVocabulary) -> list[int]:
    return [] if mode is None else [vocabulary.special_id(mode)]


def _share_of(count: int, rate: float) -> int:
    """`rate` of so many tokens, one at least, and where there are two, not all."""
    return max(1, min(round(count * rate), count - 1))


def _divided(count: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`count` things in so many parts of at least one, every way equally likely: [parts]."""
    cuts = np.sort(rng.choice(count - 1, parts - 1, replace=False)) + 1 if parts > 1 else []
    return np.diff(np.r_[0, cuts, count]).astype(int)


def _with_sentinels(tokens: np.ndarray, hidden: np.ndarray, sentinels: list[int]) -> np.ndarray:
    """The tokens that are not hidden, and sentinel number i in the place of hidden span i."""
    begins = hidden & ~np.r_[False, hidden[:-1]]
    marked = tokens.copy()
    marked[begins] = sentinels[: begins.sum()]
    return marked[~hidden | begins]


def _longest_document(tokens: np.ndarray) -> np.ndarray:
    """The longest piece between end marks."""
    pieces = np.split(tokens, np.flatnonzero(tokens == EOS_ID))
    return max((piece[piece != EOS_ID] for piece in pieces), key=len)


def _in_two(tokens: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut somewhere in the middle half."""
    cut = int(rng.integers(len(tokens) // 4, max(3 * len(tokens) // 4, len(tokens) // 4 + 1)))
    return tokens[:cut], tokens[cut:]
