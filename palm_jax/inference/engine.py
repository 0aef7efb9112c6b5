"""Requests that arrive at any time are written together: a finished text frees its place for the next.

One thread does all the work. It goes round the models; for each it reads waiting prompts into free
places and writes some tokens in all of them at once, then hands out what was written.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from palm_jax.errors import UserError
from palm_jax.inference import decoding
from palm_jax.inference.decoding import Generated
from palm_jax.inference.generate import Codec, RowText, Sampler, next_power_of_two
from palm_jax.inference.sampling import SamplingParams

MOST_LOGPROBS = 20

FinishReason = Literal['stop', 'length', 'timeout', 'cancelled', 'error']


@dataclasses.dataclass(frozen=True)
class Token:
    """One token with its log-probability, and the likeliest in its place where they were asked for."""

    id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Delta:
    """What came to a text since the last piece; `ending` is set on the last."""

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason | None = None


@dataclasses.dataclass(eq=False)
class Request:
    """A prompt to be continued.

    Attributes:
      prompt: ids with the start mark.
      sampler: how; its `max_tokens`, `stop` and `seed` hold, `samples` and `batch_size` do not.
      on_delta: called with every `Delta`, in the engine's thread.
      sample: number of the continuation of its prompt.
      num_logprobs: likeliest tokens told in every place, at most `MOST_LOGPROBS`.
      deadline: by `time.monotonic`; then it ends as it is.
    """

    prompt: Sequence[int]
    sampler: Sampler
    on_delta: Callable[[Delta], None]
    sample: int = 0
    num_logprobs: int = 0
    deadline: float = float('inf')
    is_cancelled: bool = dataclasses.field(default=False, init=False)

    def cancel(self) -> None:
        """Nobody wants it any more: its place is freed."""
        self.is_cancelled = True


class Busy(Exception):
    """As many requests wait as may."""


class Engine:
    """Writes for several models.

    Args:
      places: texts written at one time, of each model.
      max_waiting: requests that may wait; one more is refused.
      chunk: tokens written between two looks at what has come and gone.
    """

    def __init__(self, slots: int = 8, max_waiting: int = 64, chunk: int = 8):
        if min(slots, max_waiting, chunk) < 1:
            raise UserError('The engine needs at least one place, one that may wait, and a chunk of one token.')
        self._slots, self.max_waiting, self._chunk = slots, max_waiting, chunk
        self._models: dict[str, _Model] = {}
        self._changed, self._stopping, self.failure = threading.Condition(), False, None
        self._thread = threading.Thread(target=self._run, name='engine', daemon=True)

    def add(self, name: str, model: Any, params: Any, vocabulary: Codec, length: int, bidirectional: bool) -> None:
        """Add a model, unstacked (`decoding.unstack_layers`), of context length `length` (prompt and completion)."""
        self._models[name] = _Model(model, params, vocabulary, length, bidirectional, self._slots)

    def start(self) -> None:
        """Compiles what the first requests need, and begins to work."""
        for model in self._models.values():
            model.waiting.append(Request((decoding.START_ID,), Sampler(max_tokens=2), lambda piece: None))
            model.work(self._chunk)
        self._thread.start()

    def submit(self, name: str, *requests: Request) -> None:
        """Has requests written; all or none.

        Raises:
          Busy: too many wait.
          UserError: a prompt leaves no room for one token.
        """
        model = self._models[name]
        for request in requests:
            if len(request.prompt) >= model.length:
                raise UserError(
                    f'The prompt has {len(request.prompt)} tokens, its start mark included; '
                    f'the model reads and writes {model.length} together.'
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
        """Requests that have no place yet."""
        return sum(len(model.waiting) for model in self._models.values())

    @property
    def num_active(self) -> int:
        """Texts being written."""
        return sum(model.num_active for model in self._models.values())

    def stop(self) -> None:
        """Ends what runs, as cancelled, and the thread."""
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
        except Exception:  # whatever it was, those who wait must hear of it
            self.failure = traceback.format_exc()
            print(self.failure, flush=True)
        finally:
            for model in self._models.values():
                model.give_up('error' if self.failure else 'cancelled')


class _Text:
    """A request in its place: what it has, and what has been handed out of it."""

    def __init__(self, request: Request, vocabulary: Codec, limit: int):
        self.request, self.limit = request, limit
        self._row, self._shown = RowText(vocabulary, request.sampler.stop), ''

    def add(self, tokens: Sequence[Token], is_last: bool = False) -> FinishReason | None:
        """Takes in tokens and hands out what is certain of the text; gives the ending once there is one."""
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
        told = tuple(t for t in tokens[: len(row.logprobs) - before] if t.id != decoding.EOS_ID)
        if new or told or finish_reason:
            self.request.on_delta(Delta(new, told, finish_reason))
        return finish_reason


def _uncertain(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end may still change: half a character, or the beginning of a stop string."""
    half = len(text) - len(text.rstrip('\ufffd'))
    begun = (n for s in stop for n in range(1, len(s)) if text.endswith(s[:n]))
    return max(half, max(begun, default=0))


class _Model:
    """One model with its places."""

    def __init__(self, model, params, vocabulary, length, bidirectional, slots):
        self.length, self.waiting = length, collections.deque()
        self._model, self._params, self._vocabulary, self._bidirectional = model, params, vocabulary, bidirectional
        self._texts: list[_Text | None] = [None] * slots
        sampling_params = Sampler().sampling_params(np.zeros(slots), np.zeros(slots))
        self._rows = decoding.empty_state(model, params, slots, length, sampling_params)

    @property
    def num_active(self) -> int:
        return sum(text is not None for text in self._texts)

    def work(self, chunk: int) -> None:
        """Reads what waits, as far as there are places, and writes some tokens everywhere."""
        self._admit()
        if not self.num_active:
            return
        num_logprobs = MOST_LOGPROBS if any(t and t.request.num_logprobs for t in self._texts) else 0
        self._rows, written = decoding.decode(
            self._model, self._params, self._rows, steps=chunk, num_logprobs=num_logprobs
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
            size *= 4  # few shapes, so that little is compiled
        size = min(size, len(self._texts))
        width = min(next_power_of_two(max(len(r.prompt) for r in admitted), 16), self.length)
        tokens, lengths, left = np.zeros((size, width), np.int32), np.ones(size, np.int32), np.zeros(size, np.int32)
        for row, request in enumerate(admitted):
            lengths[row] = len(request.prompt)
            tokens[row, : lengths[row]] = request.prompt
            left[row] = min(request.sampler.max_tokens, self.length - lengths[row])
        slots = np.full(size, len(self._texts), np.int32)  # beyond the last: filled up rows go nowhere
        slots[: len(admitted)] = free[: len(admitted)]
        for row, request in enumerate(admitted):
            self._texts[slots[row]] = _Text(request, self._vocabulary, int(left[row]))
        rows, written = decoding.prefill(
            self._model, self._params, tokens, lengths, left, _sampling_params(admitted, size), room=0,
            bidirectional=self._bidirectional, num_logprobs=MOST_LOGPROBS, with_penalty=True,
        )  # fmt: skip
        self._rows = decoding.insert(self._rows, rows, slots)
        self._emit(slots[: len(admitted)], written)

    def _emit(self, slots: Sequence[int], written: Generated) -> None:
        """Gives every text its tokens, and frees the places of those that have ended."""
        tokens, count, logprobs = (np.asarray(x) for x in (written.tokens, written.count, written.logprobs))
        if written.top_tokens is not None:
            top_tokens, top_logprobs = np.asarray(written.top_tokens), np.asarray(written.top_logprobs)
        keep = np.ones(len(self._texts), bool)
        for row, slot in enumerate(slots):
            text = self._texts[slot]
            if text is None:
                continue
            told = []
            for t in range(count[row]):
                k = text.request.num_logprobs
                top = zip(top_tokens[row, t, :k].tolist(), top_logprobs[row, t, :k].tolist(), strict=True) if k else ()
                told.append(Token(int(tokens[row, t]), float(logprobs[row, t]), tuple(top)))
            if text.add(told):
                self._texts[slot], keep[slot] = None, False
        if not keep.all():
            self._rows = decoding.stop(self._rows, keep)

    def give_up(self, finish_reason: FinishReason) -> None:
        """Tells all that nothing more comes."""
        requests = [text.request for text in self._texts if text is not None]
        for request in itertools.chain(requests, self.waiting):
            request.on_delta(Delta('', (), finish_reason))
        self._texts, self.waiting = [None] * len(self._texts), collections.deque()


def _sampling_params(requests: Sequence[Request], size: int) -> SamplingParams:
    """Of requests that each have a sampler of their own, filled up to `size` rows."""
    padded = [*requests, *requests[-1:] * (size - len(requests))]
    of_each = [r.sampler.sampling_params(np.zeros(1), np.array([r.sample])) for r in padded]
    return SamplingParams(
        **{
            field.name: np.concatenate([getattr(sampling_params, field.name) for sampling_params in of_each])
            for field in dataclasses.fields(SamplingParams)
        }
    )
