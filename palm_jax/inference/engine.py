"""Continuous batching: requests that arrive at any time are decoded together, and a finished one frees its slot.

One thread does all the work. It iterates over the models; for each it prefills waiting prompts into free slots,
decodes some tokens in all slots at once, and delivers them.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from palm_jax.errors import UserError
from palm_jax.inference import decoding
from palm_jax.inference.decoding import Generated
from palm_jax.inference.generate import Codec, RowText, Sampler, next_power_of_two
from palm_jax.inference.sampling import SamplingParams
from palm_jax.special_ids import BOS_ID, EOS_ID

MAX_LOGPROBS = 20
_LOGGER = logging.getLogger(__name__)

FinishReason = Literal['stop', 'length', 'timeout', 'cancelled', 'error']


@dataclasses.dataclass(frozen=True)
class Token:
    """One generated token.

    Attributes:
      id: token id.
      logprob: log-probability under the model.
      top_logprobs: (id, log-probability) of the most probable tokens at its position, as many as requested.
    """

    id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Delta:
    """The text and tokens generated since the previous delta; `finish_reason` is set on the last."""

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None = None


@dataclasses.dataclass(eq=False)
class Request:
    """A prompt to complete.

    Attributes:
      prompt: token ids including BOS.
      sampler: sampling parameters, `max_tokens`, `stop` and `seed`; its `num_decodes` and `batch_size` are ignored.
      on_delta: callback for every `Delta`, called in the engine's thread.
      sample: index among the completions of one prompt, which the random choices depend on.
      num_logprobs: number of most probable tokens to report at each position, at most `MAX_LOGPROBS`.
      deadline: `time.monotonic` time in seconds after which generation ends with finish reason `timeout`.
      is_cancelled: whether `cancel` was called.
    """

    prompt: Sequence[int]
    sampler: Sampler
    on_delta: Callable[[Delta], None]
    sample: int = 0
    num_logprobs: int = 0
    deadline: float = float('inf')
    is_cancelled: bool = dataclasses.field(default=False, init=False)

    def cancel(self) -> None:
        """Cancel the request and free its slot."""
        self.is_cancelled = True


class Busy(Exception):
    """The request queue is full."""


class Engine:
    """Generates text with several models.

    Args:
      slots: number of sequences decoded in parallel, per model.
      max_waiting: maximum number of queued requests; `submit` raises `Busy` beyond it.
      chunk: number of tokens decoded between two admissions.
    """

    def __init__(self, slots: int = 8, max_waiting: int = 64, chunk: int = 8):
        if min(slots, max_waiting, chunk) < 1:
            raise UserError('slots, max_waiting and chunk must be at least 1.')
        self._slots, self.max_waiting, self._chunk = slots, max_waiting, chunk
        self._models: dict[str, _Model] = {}
        self._changed, self._stopping = threading.Condition(), False
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name='engine', daemon=True)

    def add(self, name: str, model: Any, params: Any, vocabulary: Codec, length: int, bidirectional: bool) -> None:
        """Add a model, unstacked (`decoding.unstack_layers`), of context length `length` (prompt and completion)."""
        self._models[name] = _Model(model, params, vocabulary, length, bidirectional, self._slots)

    def start(self) -> None:
        """Compile the programs that the first requests need, then start the thread."""
        for model in self._models.values():
            model.waiting.append(Request((BOS_ID,), Sampler(max_tokens=2), lambda delta: None))
            model.work(self._chunk)
        self._thread.start()

    def submit(self, name: str, *requests: Request) -> None:
        """Queue requests for the model `name`; all of them or none.

        Raises:
          Busy: the queue is full.
          UserError: a prompt leaves no room for a single token.
        """
        model = self._models[name]
        for request in requests:
            if len(request.prompt) >= model.length:
                raise UserError(
                    f'The prompt has {len(request.prompt)} tokens including BOS; the context length is '
                    f'{model.length} tokens, prompt and completion together.'
                )
        with self._changed:
            if self.failure or self._stopping:
                raise Busy
            if len(requests) + self.num_waiting > self.max_waiting:
                raise Busy
            model.waiting.extend(requests)
            self._changed.notify()

    @property
    def num_waiting(self) -> int:
        """Number of queued requests."""
        return sum(len(model.waiting) for model in self._models.values())

    @property
    def num_active(self) -> int:
        """Number of sequences being decoded."""
        return sum(model.num_active for model in self._models.values())

    def stop(self) -> None:
        """Cancel all requests and stop the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping or self.num_waiting or self.num_active)
                    if self._stopping:
                        return
                for model in self._models.values():
                    model.work(self._chunk)
        except Exception:  # whatever it was, waiting clients must be answered
            self.failure = traceback.format_exc()
            _LOGGER.error(self.failure)
        finally:
            for model in self._models.values():
                model.cancel_all('error' if self.failure else 'cancelled')


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
    half = len(text) - len(text.rstrip('\ufffd'))
    begun = (n for s in stop for n in range(1, len(s)) if text.endswith(s[:n]))
    return max(half, max(begun, default=0))


class _Model:
    """One model with its queue and its slots."""

    def __init__(self, model, params, vocabulary, length, bidirectional, slots):
        self.length = length
        self.waiting: collections.deque[Request] = collections.deque()
        self._model, self._params, self._vocabulary, self._bidirectional = model, params, vocabulary, bidirectional
        self._texts: list[_Text | None] = [None] * slots
        sampling_params = Sampler().sampling_params(np.zeros(slots), np.zeros(slots))
        self._state = decoding.empty_state(model, params, slots, length, sampling_params)

    @property
    def num_active(self) -> int:
        return sum(text is not None for text in self._texts)

    def work(self, chunk: int) -> None:
        """Prefill queued requests into free slots, then decode `chunk` tokens in every slot."""
        self._admit()
        if not self.num_active:
            return
        num_logprobs = MAX_LOGPROBS if any(t and t.request.num_logprobs for t in self._texts) else 0
        self._state, written = decoding.decode(
            self._model, self._params, self._state, steps=chunk, num_logprobs=num_logprobs
        )
        self._emit(range(len(self._texts)), written)

    def _admit(self) -> None:
        free = [slot for slot, text in enumerate(self._texts) if text is None]
        admitted: list[Request] = []
        while self.waiting and len(admitted) < len(free):
            request = self.waiting.popleft()
            if request.is_cancelled or time.monotonic() > request.deadline:
                request.on_delta(Delta('', (), 'cancelled' if request.is_cancelled else 'timeout'))
            else:
                admitted.append(request)
        if not admitted:
            return
        size = 1
        while size < len(admitted):
            size *= 4  # few shapes, to limit compilation
        size = min(size, len(self._texts))
        width = min(next_power_of_two(max(len(r.prompt) for r in admitted), 16), self.length)
        tokens, lengths, left = np.zeros((size, width), np.int32), np.ones(size, np.int32), np.zeros(size, np.int32)
        for row, request in enumerate(admitted):
            lengths[row] = len(request.prompt)
            tokens[row, : lengths[row]] = request.prompt
            left[row] = min(request.sampler.max_tokens, self.length - lengths[row])
        slots = np.full(size, len(self._texts), np.int32)  # padding rows have no slot
        slots[: len(admitted)] = free[: len(admitted)]
        for row, request in enumerate(admitted):
            self._texts[slots[row]] = _Text(request, self._vocabulary, int(left[row]))
        rows, written = decoding.prefill(
            self._model, self._params, tokens, lengths, left, _sampling_params(admitted, size), room=0,
            bidirectional=self._bidirectional, num_logprobs=MAX_LOGPROBS, with_penalty=True,
        )  # fmt: skip
        self._state = decoding.insert(self._state, rows, slots)
        self._emit(slots[: len(admitted)], written)

    def _emit(self, slots: Iterable[int], written: Generated) -> None:
        """Deliver generated tokens to their requests, and free the slots of finished ones."""
        tokens, count, logprobs = (np.asarray(x) for x in (written.tokens, written.count, written.logprobs))
        if written.top_tokens is not None:
            top_tokens, top_logprobs = np.asarray(written.top_tokens), np.asarray(written.top_logprobs)
        keep = np.ones(len(self._texts), bool)
        for row, slot in enumerate(slots):
            text = self._texts[slot]
            if text is None:
                continue
            step_tokens = []
            for t in range(count[row]):
                k = text.request.num_logprobs
                top = zip(top_tokens[row, t, :k].tolist(), top_logprobs[row, t, :k].tolist(), strict=True) if k else ()
                step_tokens.append(Token(int(tokens[row, t]), float(logprobs[row, t]), tuple(top)))
            if text.add(step_tokens):
                self._texts[slot], keep[slot] = None, False
        if not keep.all():
            self._state = decoding.stop(self._state, keep)

    def cancel_all(self, finish_reason: FinishReason) -> None:
        """Finish every request with this reason."""
        requests = [text.request for text in self._texts if text is not None]
        for request in itertools.chain(requests, self.waiting):
            request.on_delta(Delta('', (), finish_reason))
        self._texts, self.waiting = [None] * len(self._texts), collections.deque()


def _sampling_params(requests: Sequence[Request], size: int) -> SamplingParams:
    """Stack the sampling parameters of the requests, padded to `size` rows."""
    padded = [*requests, *[requests[-1]] * (size - len(requests))]
    of_each = [r.sampler.sampling_params(np.zeros(1), np.array([r.sample])) for r in padded]
    return SamplingParams(
        **{
            field.name: np.concatenate([getattr(sampling_params, field.name) for sampling_params in of_each])
            for field in dataclasses.fields(SamplingParams)
        }
    )
