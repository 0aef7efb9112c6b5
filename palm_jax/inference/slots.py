"""The slots of a model, in which sequences that come and go are decoded together; see `engine`.

What a single sequence raises (in prefilling its prompt, decoding its text or delivering it) ends that sequence with the
finish reason `error`. If a program of a whole batch raises, its sequences end, and the model is tried on a blank
prompt: the model has failed only if that raises, too.
"""

from __future__ import annotations

import collections
import itertools
import logging
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from palm_jax.inference import decoding
from palm_jax.inference.decoding import DecodeState, Generated
from palm_jax.inference.generate import Codec, RowText, Sampler, drawable_ids, next_power_of_two
from palm_jax.inference.requests import MAX_BIASES, MAX_LOGPROBS, Delta, FinishReason, Request, Token
from palm_jax.inference.sampling import SamplingParams
from palm_jax.special_ids import BOS_ID, EOS_ID

_LOGGER = logging.getLogger(__name__)


class _Text:
    """A request in its slot: the text generated so far, and how much of it was delivered."""

    def __init__(self, request: Request, vocabulary: Codec, limit: int):
        self.request, self.limit = request, limit
        self._row, self._shown = RowText(vocabulary, request.sampler.stop), ''

    def add(self, tokens: Sequence[Token], is_last: bool = False) -> FinishReason | None:
        """Append tokens, deliver the part of the text that is final, and return the finish reason, if any."""
        row = self._row
        before = len(row.logprobs)
        row.add([t.id for t in tokens], [t.logprob for t in tokens])
        finish_reason: FinishReason | None = None
        if row.has_ended:
            finish_reason = 'stop'
        elif is_last or len(row.ids) >= self.limit:
            finish_reason = 'length'
        elif self.request.is_cancelled:
            finish_reason = 'cancelled'
        elif time.monotonic() > self.request.deadline:
            finish_reason = 'timeout'
        text = row.text
        if finish_reason is None:
            text = text[: len(text) - _uncertain(text, row.stop)]
        new = text[len(self._shown) :] if text.startswith(self._shown) else ''
        self._shown += new
        delivered = tuple(t for t in tokens[: len(row.logprobs) - before] if t.id != EOS_ID)
        if new or delivered or finish_reason:
            self.request.on_delta(Delta(new, delivered, finish_reason))
        return finish_reason


def _uncertain(text: str, stop: Sequence[str]) -> int:
    """Count trailing characters that may still change: an incomplete character, or a prefix of a stop sequence."""
    whole = text.rstrip('\ufffd')  # what is left may become the next character of a stop sequence
    begun = (n for s in stop for n in range(1, len(s)) if whole.endswith(s[:n]) or text.endswith(s[:n]))
    return len(text) - len(whole) + max(begun, default=0)


class Slots:
    """The sequences of one model: a queue, and slots in which sequences are decoded together.

    Args:
      model: unstacked model, see `decoding.unstack_layers`.
      params: parameters of `model`.
      vocabulary: vocabulary of the answers.
      length: context length: maximum tokens of prompt and completion together.
      bidirectional: whether prompt tokens attend to each other in both directions (prefix LM).
      slots: number of sequences decoded in parallel.

    Attributes:
      num_ids: number of token ids of the model.
      waiting: queued requests.
    """

    def __init__(self, model: Any, params: Any, vocabulary: Codec, length: int, bidirectional: bool, slots: int):
        self.length, self.num_ids = length, model.arch.vocab_size
        self.waiting: collections.deque[Request] = collections.deque()
        self._model, self._params, self._vocabulary, self._bidirectional = model, params, vocabulary, bidirectional
        self._drawable = drawable_ids(vocabulary, self.num_ids)
        self._texts: list[_Text | None] = [None] * slots
        self._state = self._empty_state()

    def _empty_state(self) -> DecodeState:
        slots = len(self._texts)
        sampling_params = Sampler().sampling_params(np.zeros(slots), np.zeros(slots), MAX_BIASES)
        return decoding.empty_state(self._model, self._params, slots, self.length, sampling_params)

    @property
    def num_active(self) -> int:
        """Number of sequences being decoded."""
        return sum(text is not None for text in self._texts)

    def work(self, chunk: int) -> None:
        """Prefill queued requests into free slots, then decode `chunk` tokens in every slot.

        Raises:
          Exception: of the programs, if they fail on a blank prompt, too.
        """
        try:
            self._admit()
            if self.num_active:
                self._decode(chunk)
        except Exception:
            _LOGGER.exception('Decoding a batch has failed; its %d sequences end.', self.num_active)
            for text in filter(None, self._texts):
                _deliver(text.request, Delta('', (), 'error'))
            self._texts = [None] * len(self._texts)
            self._state = self._empty_state()  # the old one may have been donated
            self.check()

    def check(self) -> None:
        """Prefill a blank prompt; raise what its program raises."""
        self._prefill([Request((BOS_ID,), Sampler(max_tokens=1), lambda delta: None)])

    def _decode(self, chunk: int) -> None:
        num_logprobs = MAX_LOGPROBS if any(t and t.request.num_logprobs for t in self._texts) else 0
        self._state, generated = decoding.decode(
            self._model, self._params, self._state, steps=chunk, num_logprobs=num_logprobs, drawable_V=self._drawable
        )
        self._emit(range(len(self._texts)), generated)

    def _admit(self) -> None:
        free = [slot for slot, text in enumerate(self._texts) if text is None]
        admitted: list[Request] = []
        while self.waiting and len(admitted) < len(free):
            request = self.waiting.popleft()
            if request.is_cancelled or time.monotonic() > request.deadline:
                _deliver(request, Delta('', (), 'cancelled' if request.is_cancelled else 'timeout'))
            else:
                admitted.append(request)
        slots = free[: len(admitted)]
        for request, slot in zip(admitted, slots, strict=True):
            limit = min(request.sampler.max_tokens, self.length - len(request.prompt))
            self._texts[slot] = _Text(request, self._vocabulary, limit)
        if admitted:
            self._start(admitted, slots)

    def _start(self, requests: Sequence[Request], slots: Sequence[int]) -> None:
        """Prefill requests into slots; if that raises, one after another, and end those that raise alone."""
        try:
            rows, generated = self._prefill(requests)
        except Exception:
            if len(requests) > 1:
                for request, slot in zip(requests, slots, strict=True):
                    self._start([request], [slot])
                return
            _LOGGER.exception('Prefilling a prompt has failed; its sequence ends.')
            self._texts[slots[0]] = None
            _deliver(requests[0], Delta('', (), 'error'))
            self.check()
            return
        padded = np.full(len(rows.remaining), len(self._texts), np.int32)  # padding rows have no slot
        padded[: len(slots)] = slots
        self._state = decoding.insert(self._state, rows, padded)
        self._emit(slots, generated)

    def _prefill(self, requests: Sequence[Request]) -> tuple[DecodeState, Generated]:
        """Return the state of the requests, padded to one of few shapes, and their first tokens."""
        size = 1
        while size < len(requests):
            size *= 4  # few shapes, to limit compilation
        size = min(size, len(self._texts))
        width = min(next_power_of_two(max(len(r.prompt) for r in requests), 16), self.length)
        tokens, lengths, left = np.zeros((size, width), np.int32), np.ones(size, np.int32), np.zeros(size, np.int32)
        for row, request in enumerate(requests):
            lengths[row] = len(request.prompt)
            tokens[row, : lengths[row]] = request.prompt
            left[row] = min(request.sampler.max_tokens, self.length - lengths[row])
        rows, generated = decoding.prefill(
            self._model, self._params, tokens, lengths, left, _sampling_params(requests, size), room=0,
            bidirectional=self._bidirectional, num_logprobs=MAX_LOGPROBS, with_penalty=True,
            drawable_V=self._drawable,
        )  # fmt: skip
        return rows, jax.device_get(generated)

    def _emit(self, slots: Iterable[int], generated: Generated) -> None:
        """Deliver generated tokens to their requests, and free the slots of finished ones."""
        generated = jax.device_get(generated)
        keep = np.ones(len(self._texts), bool)
        for row, slot in enumerate(slots):
            text = self._texts[slot]
            if text is None:
                continue
            try:
                has_ended = text.add(_tokens_of(generated, row, text.request.num_logprobs)) is not None
            except Exception:
                _LOGGER.exception('A sequence has failed; it ends.')
                _deliver(text.request, Delta('', (), 'error'))
                has_ended = True
            if has_ended:
                self._texts[slot], keep[slot] = None, False
        if not keep.all():
            self._state = decoding.stop(self._state, keep)

    def cancel_all(self, finish_reason: FinishReason) -> None:
        """Finish every request with this reason."""
        requests = [text.request for text in self._texts if text is not None]
        for request in itertools.chain(requests, self.waiting):
            _deliver(request, Delta('', (), finish_reason))
        self._texts, self.waiting = [None] * len(self._texts), collections.deque()


def _deliver(request: Request, delta: Delta) -> None:
    """Call `on_delta` for the end of a request; what it raises is logged."""
    try:
        request.on_delta(delta)
    except Exception:
        _LOGGER.exception('The end of a sequence could not be delivered.')


def _tokens_of(generated: Any, row: int, num_top: int) -> list[Token]:
    """Return the tokens of a row of `Generated`, with the `num_top` most probable ones at their positions."""
    found = []
    for t in range(generated.count[row]):
        top: tuple[tuple[int, float], ...] = ()
        if num_top:
            ids, logprobs = generated.top_tokens[row, t, :num_top], generated.top_logprobs[row, t, :num_top]
            top = tuple((i, p) for i, p in zip(ids.tolist(), logprobs.tolist(), strict=True) if p > -math.inf)
        found.append(Token(int(generated.tokens[row, t]), float(generated.logprobs[row, t]), top))
    return found


def _sampling_params(requests: Sequence[Request], size: int) -> SamplingParams:
    """Stack the sampling parameters of the requests, padded to `size` rows."""
    padded = [*requests, *[requests[-1]] * (size - len(requests))]
    of_each = [r.sampler.sampling_params(np.zeros(1), np.array([r.sample]), MAX_BIASES) for r in padded]
    return jax.tree.map(lambda *rows: np.concatenate(rows), *of_each)
