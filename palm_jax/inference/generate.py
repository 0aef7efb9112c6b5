"""Text generation: decoders that gin binds, and batches of prompts decoded to completion."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import numpy as np

from palm_jax.bounds import Above, AtLeast, AtMost, Below, checked
from palm_jax.errors import UserError
from palm_jax.inference import decoding
from palm_jax.inference.completion import Codec, Completion, RowText, add_generated
from palm_jax.inference.decoding import Weights
from palm_jax.inference.sampling import SamplingParams
from palm_jax.inference.steering import Steering
from palm_jax.models.model import Model
from palm_jax.progress_bar import tqdm
from palm_jax.special_ids import BOS_ID, EOS_ID

_CHUNK = 16  # tokens generated between two searches for a stop sequence


def drawable_ids(vocabulary: Codec, num_ids: int) -> np.ndarray:
    """Return which ids of a model generation may choose, bool [V]: those that have a text, and EOS.

    A codec without `has_text` decodes every id.

    Args:
      vocabulary: vocabulary of the answers, see `Vocabulary.has_text`.
      num_ids: V, the number of rows of the model's embedding table, which may exceed the vocabulary.
    """
    has_text = getattr(vocabulary, 'has_text', None)
    if has_text is None:
        return np.ones(num_ids, bool)
    drawable = np.zeros(num_ids, bool)
    drawable[: len(has_text)] = has_text[:num_ids]
    drawable[EOS_ID] = True
    return drawable


class Decoder(abc.ABC):
    """A decoding strategy: a frozen dataclass with these fields, which gin builds.

    Attributes:
      max_tokens: maximum number of generated tokens.
      batch_size: number of prompts decoded together.
      weights: `stored` or `int8`, see `models.quantization`.
      stop: strings at the first of which a completion is cut.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # `dataclasses.replace` takes any decoder
    max_tokens: int
    batch_size: int
    weights: Weights
    stop: Sequence[str]

    def stopping_at(self, stop: Sequence[str]) -> Self:
        """Return this decoder with further stop strings."""
        return dataclasses.replace(self, stop=(*self.stop, *stop)) if stop else self

    def generate(
        self,
        model: Model,
        params: Any,
        vocabulary: Codec,
        prompts: Sequence[Sequence[int]],
        length: int,
        bidirectional: bool = False,
        first: int = 0,
    ) -> list[list[Completion]]:
        """Complete every prompt, up to EOS, a stop sequence, `max_tokens`, or `length` tokens in all.

        Args:
          model: language model, see `decoding.unstack_layers`.
          params: parameters of `model`.
          vocabulary: decodes the generated ids.
          prompts: token ids, see `begin`: at least one and fewer than `length` each.
          length: context length: maximum tokens of prompt and completion together.
          bidirectional: whether prompt tokens attend to each other in both directions (prefix LM).
          first: index of the first prompt; the random choices of a prompt depend on seed and index.

        Returns:
          The completions of every prompt, in input order.

        Raises:
          UserError: a prompt leaves no room for a single token.
        """
        for number, ids in enumerate(prompts, first + 1):
            if len(ids) >= length:
                raise UserError(f'Prompt {number} has {num_tokens(ids)}; the context length is {length}.')
        model, params = decoding.unstack_layers(model, params, self.weights)
        results: list[list[Completion]] = [[] for _ in prompts]
        for rows, tokens, lengths in batches(prompts, self.batch_size, length):
            left = np.minimum(self.max_tokens, length - lengths).astype(np.int32)
            written = self._generate_batch(
                model, params, vocabulary, tokens, lengths, left, np.array(rows) + first, bidirectional
            )
            for row, completions in zip(rows, written, strict=False):  # a batch may be filled up
                results[row] = completions
        return results

    @abc.abstractmethod
    def _generate_batch(self, model, params, vocabulary, tokens, lengths, left, numbers, bidirectional):
        """Decode one batch: tokens [B, L]; lengths, token limits and prompt indices, each [B]."""

    def __call__(
        self, model: Model, params: Any, vocabulary: Codec, prompts: Sequence[str], length: int, first: int = 0
    ) -> list[str]:
        """Return the best completion of every text prompt; see `generate`."""
        encoded = encode_prompts(vocabulary, prompts, length)
        return [best.text for best, *_ in self.generate(model, params, vocabulary, encoded, length, first=first)]


def start_ids(vocabulary: Codec) -> tuple[int, ...]:
    """Return the ids before every text, see `Vocabulary.start_ids`; a codec that does not say has BOS."""
    return getattr(vocabulary, 'start_ids', (BOS_ID,))


def begin(vocabulary: Codec, ids: Sequence[int]) -> tuple[int, ...]:
    """Return the prompt of a text's ids: they follow the start token, if the model has one.

    An empty text without a start token begins with `Vocabulary.prefix_id`.
    """
    return (*start_ids(vocabulary), *ids) or (getattr(vocabulary, 'prefix_id', BOS_ID),)


def num_tokens(prompt: Sequence[int]) -> str:
    """Return the number of tokens of a prompt, for messages."""
    return f'{len(prompt)} tokens{" including BOS" if prompt[0] == BOS_ID else ""}'


def encode_prompts(vocabulary: Codec, prompts: Sequence[str], length: int) -> list[tuple[int, ...]]:
    """Encode texts as prompts; see `begin`.

    Raises:
      UserError: a prompt leaves no room for a single token; the message quotes its beginning.
    """
    encoded = [begin(vocabulary, vocabulary.encode(prompt)) for prompt in prompts]
    num_start = len(start_ids(vocabulary))
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) >= length:
            count = len(ids) - num_start
            raise UserError(f'The prompt {prompt[:40]!r} has {count} tokens; the context length is {length}.')
    return encoded


@checked
@dataclasses.dataclass(frozen=True)
class Sampler(Decoder):
    """Greedy decoding and sampling; see `sampling.SamplingParams`.

    Attributes:
      max_tokens: maximum number of generated tokens.
      temperature: divisor of the logits; 0 is greedy decoding.
      top_p: nucleus sampling threshold; 1 keeps every token.
      top_k: number of most probable tokens to sample from; 0 keeps every token.
      min_p: minimum probability relative to the most probable token; 0 keeps every token.
      repetition_penalty: penalty on tokens that the sequence already contains; 1 applies none.
      stop: stop sequences: generation ends at the first, which is not part of the completion.
      num_decodes: number of completions of each prompt.
      seed: random seed; the same seed gives the same text at any batch size.
      batch_size: number of prompts decoded together.
      weights: `stored` or `int8`, see `models.quantization`.
      logit_bias: what is added to the logits of tokens, by id, before they are divided by the temperature; −100 bans a
        token, 100 makes it certain, as in OpenAI's API. Log-probabilities are those without it.
      steering: models that steer the logits of a run that is loaded, see `steering.Steering`; None for none.
    """

    max_tokens: Annotated[int, AtLeast(1)] = 96
    temperature: Annotated[float, AtLeast(0)] = 0.8
    top_p: Annotated[float, Above(0), AtMost(1)] = 0.95
    top_k: Annotated[int, AtLeast(0)] = 0
    min_p: Annotated[float, AtLeast(0), AtMost(1)] = 0.0
    repetition_penalty: Annotated[float, Above(0)] = 1.0
    stop: Sequence[str] = ()
    num_decodes: Annotated[int, AtLeast(1)] = 1
    seed: Annotated[int, AtLeast(-(2**63)), Below(2**63)] = 0  # of which the lower 32 bits count
    batch_size: Annotated[int, AtLeast(1)] = 32
    weights: Weights = 'stored'
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict, hash=False)
    steering: Steering | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, 'stop', tuple(self.stop))
        if '' in self.stop:
            raise UserError('generate.Sampler.stop contains an empty string.')
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or token < 0 or not math.isfinite(bias):
                raise UserError(f'logit_bias holds {token!r}: {bias!r}; it needs ids of tokens with finite numbers.')

    def _generate_batch(self, model, params, vocabulary, tokens, lengths, left, numbers, bidirectional):
        B, n = len(tokens), self.num_decodes
        tokens, lengths, left = (np.repeat(x, n, axis=0) for x in (tokens, lengths, left))
        numbers = np.repeat(np.resize(numbers, B), n)
        most, drawable = int(left.max()), drawable_ids(vocabulary, model.arch.vocab_size)
        check_biases(self, model.arch.vocab_size)
        rows, written = decoding.prefill(
            model, params, tokens, lengths, left, self.sampling_params(numbers, np.tile(np.arange(n), B)),
            room=next_power_of_two(most, 16), bidirectional=bidirectional,
            num_logprobs=0, with_penalty=self.repetition_penalty != 1, drawable_V=drawable,
        )  # fmt: skip
        texts = [RowText(vocabulary, self.stop) for _ in range(B * n)]
        add_generated(texts, written)
        steps = min(_CHUNK, most) if self.stop else next_power_of_two(most, 16)
        while not all(text.has_ended or len(text.ids) >= limit for text, limit in zip(texts, left, strict=True)):
            rows, written = decoding.decode(model, params, rows, steps=steps, num_logprobs=0, drawable_V=drawable)
            add_generated(texts, written)
            rows = decoding.stop(rows, np.array([not text.has_ended for text in texts]))
        done = [text.completion() for text in texts]
        return [done[i : i + n] for i in range(0, len(done), n)]

    def sampling_params(self, numbers: np.ndarray, samples: np.ndarray, num_biases: int = 0) -> SamplingParams:
        """Return the parameters of rows that generate completion `samples` of prompt `numbers`, each [B].

        Args:
          numbers, samples: indices.
          num_biases: number of biased tokens that there is room for, at least; 0 is as many as there are.
        """
        size = max(len(self.logit_bias), num_biases)
        ids, biases = np.full(size, np.iinfo(np.int32).max, np.int32), np.zeros(size, np.float32)
        ids[: len(self.logit_bias)], biases[: len(self.logit_bias)] = list(self.logit_bias), [*self.logit_bias.values()]

        def filled(value, dtype):
            info = np.finfo(dtype) if np.issubdtype(dtype, np.floating) else np.iinfo(dtype)
            return np.full(len(numbers), min(value, info.max.item() if dtype == np.float32 else info.max), dtype)

        return SamplingParams(
            temperature=filled(self.temperature, np.float32),
            top_k=filled(self.top_k, np.int32),
            top_p=filled(self.top_p, np.float32),
            min_p=filled(self.min_p, np.float32),
            repetition_penalty=filled(self.repetition_penalty, np.float32),
            seed=filled(self.seed & 0xFFFFFFFF, np.uint32),
            number=np.asarray(numbers, np.int32),
            sample=np.asarray(samples, np.int32),
            bias_ids=np.tile(ids, (len(numbers), 1)) if size else None,
            bias=np.tile(biases, (len(numbers), 1)) if size else None,
        )


def check_biases(sampler: Sampler, num_ids: int) -> None:
    """Refuse biases of tokens that a model lacks.

    Raises:
      UserError: with the id.
    """
    if unknown := [token for token in sampler.logit_bias if token >= num_ids]:
        raise UserError(f'logit_bias: token {unknown[0]} is unknown: the model has {num_ids}.')


def batches(
    prompts: Sequence[Sequence[int]], batch_size: int, length: int, doing: str = 'generating'
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Yield batches of prompts of similar length.

    Batch sizes and widths are rounded up to few shapes to limit compilation; an incomplete batch is filled
    with copies of its last prompt.

    Yields:
      Indices of the batch's prompts; tokens int32 [B, P], right-padded; lengths int32 [B].
    """
    order = np.argsort([len(ids) for ids in prompts], kind='stable')
    batch_size = min(batch_size, next_power_of_two(len(prompts)))
    starts = range(0, len(prompts), batch_size)
    for start in tqdm(starts, desc=doing, unit=' batches', leave=False, disable=len(starts) < 2):
        rows = [int(i) for i in order[start : start + batch_size]]
        padded = rows + rows[-1:] * (batch_size - len(rows))
        width = min(next_power_of_two(max(len(prompts[i]) for i in rows), 16), length)
        tokens, lengths = np.zeros((batch_size, width), np.int32), np.zeros(batch_size, np.int32)
        for row, i in enumerate(padded):
            lengths[row] = len(prompts[i])
            tokens[row, : lengths[row]] = prompts[i]
        yield rows, tokens, lengths


def next_power_of_two(n: int, least: int = 1) -> int:
    """Return the smallest power of two that is at least `n` and `least`."""
    return max(least, 1 << (n - 1).bit_length())
