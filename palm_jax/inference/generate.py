"""Writes completions of prompts: the settings that gin binds, and batches of prompts worked to their end."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from tqdm import tqdm

from palm_jax.errors import UserError
from palm_jax.inference import decoding
from palm_jax.inference.decoding import EOS_ID, START_ID, Generated, Weights
from palm_jax.inference.sampling import SamplingParams
from palm_jax.models.palm import PaLM

_CHUNK = 16  # tokens between two looks for a stop string


class Codec(Protocol):
    """The part of a vocabulary that generation needs."""

    def encode(self, text: str) -> list[int]:
        """Text to ids."""

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """What was written behind a prompt.

    Attributes:
      ids: tokens, without the end mark.
      text: of the ids, up to a stop string where one was written.
      ending: `stop` at the end mark or a stop string, `length` where there was no more room.
      logprobs: log-probability of each token by the model itself, the end mark's last where there is one.
      score: what several completions of a prompt are ranked by: the sum of `logprobs`, normalised by beam search.
    """

    ids: tuple[int, ...]
    text: str
    finish_reason: Literal['stop', 'length']
    logprobs: tuple[float, ...]
    score: float


class Decoder(abc.ABC):
    """A way to continue prompts: a frozen dataclass with these fields, which gin builds.

    Attributes:
      max_tokens: length of a continuation at most.
      batch_size: prompts worked on at one time.
      weights: `stored`, or rounded to `int8`, see `quantization`.
    """

    max_tokens: int
    batch_size: int
    weights: Weights

    def generate(
        self,
        model: PaLM,
        params: Any,
        vocabulary: Codec,
        prompts: Sequence[Sequence[int]],
        length: int,
        bidirectional: bool = False,
        first: int = 0,
    ) -> list[list[Completion]]:
        """Continues every prompt of ids, each with its start mark, up to the end mark or to `length` in all.

        Args:
          model, params: the language model, see `decoding.unstack_layers`.
          vocabulary: decodes what is written.
          prompts: ids, fewer than `length` each.
          length: tokens of prompt and continuation together.
          bidirectional: a prompt's tokens see each other both ways, as of a prefix LM.
          first: number of the first prompt; a prompt's random choices depend on seed and number.

        Returns:
          For every prompt, in their order, its completions.

        Raises:
          UserError: a prompt leaves no room for one token.
        """
        for number, ids in enumerate(prompts, first + 1):
            if len(ids) >= length:
                raise UserError(
                    f'Prompt {number} has {len(ids)} tokens, its start mark included; the model reads {length}.'
                )
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
        """A batch of `write`: tokens [B, L]; of each row its length, the room left and its number, all [B]."""

    def __call__(
        self, model: PaLM, params: Any, vocabulary: Codec, prompts: Sequence[str], length: int, first: int = 0
    ) -> list[str]:
        """The best continuation of every prompt of text; arguments and errors as of `write`."""
        encoded = encode_prompts(vocabulary, prompts, length)
        return [best.text for best, *_ in self.generate(model, params, vocabulary, encoded, length, first=first)]


def encode_prompts(vocabulary: Codec, prompts: Sequence[str], length: int) -> list[list[int]]:
    """Texts as ids behind the start mark.

    Raises:
      UserError: a prompt leaves no room for one token, with its beginning.
    """
    encoded = [[START_ID, *vocabulary.encode(prompt)] for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) >= length:
            raise UserError(f'The prompt {prompt[:40]!r} has {len(ids) - 1} tokens; the model reads {length}.')
    return encoded


@dataclasses.dataclass(frozen=True)
class Sampler(Decoder):
    """Greedy search and sampling; see `sampling.Settings`.

    Attributes:
      max_tokens: length of a continuation at most.
      temperature: divides the logits; 0 is greedy.
      top_p, top_k, min_p: what is left to draw from; 1, 0 and 0 leave everything.
      repetition_penalty: above 1, tokens that a text holds already become less likely.
      stop: texts behind which nothing is written; they are left out.
      num_decodes: completions of each prompt.
      seed: the same seed gives the same text, at any batch size.
      batch_size, weights: see `Decoder`.
    """

    max_tokens: int = 96
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: Sequence[str] = ()
    num_decodes: int = 1
    seed: int = 0
    batch_size: int = 32
    weights: Weights = 'stored'

    def __post_init__(self) -> None:
        object.__setattr__(self, 'stop', tuple(self.stop))
        problems = {
            f'max_tokens = {self.max_tokens} must be at least 1': self.max_tokens < 1,
            f'batch_size = {self.batch_size} must be at least 1': self.batch_size < 1,
            f'samples = {self.num_decodes} must be at least 1': self.num_decodes < 1,
            f'temperature = {self.temperature} must not be negative': not self.temperature >= 0,
            f'top_p = {self.top_p} must be above 0 and at most 1': not 0 < self.top_p <= 1,
            f'top_k = {self.top_k} must not be negative': self.top_k < 0,
            f'min_p = {self.min_p} must be at least 0 and at most 1': not 0 <= self.min_p <= 1,
            f'repetition_penalty = {self.repetition_penalty} must be above 0': not self.repetition_penalty > 0,
            'stop holds an empty text': '' in self.stop,
        }
        if wrong := [problem for problem, holds in problems.items() if holds]:
            raise UserError(f'Sampler: {"; ".join(wrong)}.')

    def _generate_batch(self, model, params, vocabulary, tokens, lengths, left, numbers, bidirectional):
        B, n = len(tokens), self.num_decodes
        tokens, lengths, left = (np.repeat(x, n, axis=0) for x in (tokens, lengths, left))
        numbers = np.repeat(np.resize(numbers, B), n)
        most = int(left.max())
        rows, written = decoding.prefill(
            model, params, tokens, lengths, left, self.sampling_params(numbers, np.tile(np.arange(n), B)),
            room=next_power_of_two(most, 16), bidirectional=bidirectional,
            num_logprobs=0, with_penalty=self.repetition_penalty != 1,
        )  # fmt: skip
        texts = [RowText(vocabulary, self.stop) for _ in range(B * n)]
        take(texts, written)
        steps = min(_CHUNK, most) if self.stop else next_power_of_two(most, 16)
        while not all(text.has_ended or len(text.ids) >= limit for text, limit in zip(texts, left, strict=True)):
            rows, written = decoding.decode(model, params, rows, steps=steps, num_logprobs=0)
            take(texts, written)
            rows = decoding.stop(rows, np.array([not text.has_ended for text in texts]))
        done = [text.continuation() for text in texts]
        return [done[i : i + n] for i in range(0, len(done), n)]

    def sampling_params(self, numbers: np.ndarray, samples: np.ndarray) -> SamplingParams:
        """Of rows that write sample `samples` of prompt `numbers`."""

        def of_all(value, dtype):
            return np.full(len(numbers), value, dtype)

        return SamplingParams(
            temperature=of_all(self.temperature, np.float32),
            top_k=of_all(self.top_k, np.int32),
            top_p=of_all(self.top_p, np.float32),
            min_p=of_all(self.min_p, np.float32),
            repetition_penalty=of_all(self.repetition_penalty, np.float32),
            seed=of_all(self.seed & 0xFFFFFFFF, np.uint32),
            number=np.asarray(numbers, np.int32),
            sample=np.asarray(samples, np.int32),
        )


@dataclasses.dataclass
class RowText:
    """One row's text as it grows.

    Attributes:
      vocabulary: decodes it.
      stop: texts behind which nothing is written.
      ids, logprobs: what the row holds; of the end mark only the log-probability.
      has_ended: at an end mark or a stop string.
    """

    vocabulary: Codec
    stop: Sequence[str] = ()
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    has_ended: bool = False

    def add(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """What was written behind it; what comes behind an end is left out."""
        for token, logprob in zip(ids, logprobs, strict=True):
            if self.has_ended:
                return
            self.logprobs.append(float(logprob))
            if token == EOS_ID:
                self.has_ended = True
            else:
                self.ids.append(int(token))
                self.has_ended = bool(self.stop) and self._stop_at() is not None

    @functools.cached_property
    def _tail(self) -> int:
        return 4 * max(len(s.encode()) for s in self.stop) + 16

    def _stop_at(self) -> int | None:
        # Only the newest tokens can have completed a stop string.
        if not any(s in self.vocabulary.decode(self.ids[-self._tail :]) for s in self.stop):
            return None
        text = self.vocabulary.decode(self.ids)
        places = [text.find(s) for s in self.stop]
        return min((place for place in places if place >= 0), default=None)

    @property
    def text(self) -> str:
        """Up to a stop string."""
        return self.vocabulary.decode(self.ids)[: self._stop_at() if self.stop else None]

    def continuation(self) -> Completion:
        """What there is."""
        finish_reason = 'stop' if self.has_ended else 'length'
        return Completion(tuple(self.ids), self.text, finish_reason, tuple(self.logprobs), sum(self.logprobs))


def take(texts: Sequence[RowText], written: Generated) -> None:
    """Adds what some steps wrote to the texts of their rows."""
    tokens, count, logprobs = (np.asarray(x) for x in (written.tokens, written.count, written.logprobs))
    for text, ids, n, row_logprobs in zip(texts, tokens, count, logprobs, strict=True):
        text.add(ids[:n].tolist(), row_logprobs[:n].tolist())


def batches(
    prompts: Sequence[Sequence[int]], batch_size: int, length: int
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Prompts by length, so that those of a batch are much alike.

    Batches and widths are rounded up to few shapes, so that little is compiled; what fills a batch
    up repeats its last prompt.

    Yields:
      Numbers of the batch's prompts; int32 [B, P], padded behind; int32 [B] lengths.
    """
    order = np.argsort([len(ids) for ids in prompts], kind='stable')
    batch_size = min(batch_size, next_power_of_two(len(prompts)))
    starts = range(0, len(prompts), batch_size)
    for start in tqdm(starts, desc='writing', unit=' batches', leave=False, disable=len(starts) < 2):
        rows = [int(i) for i in order[start : start + batch_size]]
        padded = rows + rows[-1:] * (batch_size - len(rows))
        width = min(next_power_of_two(max(len(prompts[i]) for i in rows), 16), length)
        tokens, lengths = np.zeros((batch_size, width), np.int32), np.zeros(batch_size, np.int32)
        for row, i in enumerate(padded):
            lengths[row] = len(prompts[i])
            tokens[row, : lengths[row]] = prompts[i]
        yield rows, tokens, lengths


def next_power_of_two(n: int, least: int = 1) -> int:
    """The smallest power of two that is at least n and `least`."""
    return max(least, 1 << (n - 1).bit_length())
