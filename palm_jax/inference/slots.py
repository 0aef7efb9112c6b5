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
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from palm_jax.inference import decoding
from palm_jax.inference.completion import Codec, RowText
from palm_jax.inference.decoding import DecodeState, Generated
from palm_jax.inference.generate import Sampler, drawable_ids
from palm_jax.inference.prefix_cache import PrefixCache
from palm_jax.inference.prompts import Prompts
from palm_jax.inference.requests import MAX_BIASES, MAX_LOGPROBS, Delta, FinishReason, Request, Token
from palm_jax.special_ids import EOS_ID

_LOGGER = logging.getLogger(__name__)
_KEPT_CONTEXTS = 64  # a small model keeps no more beginnings than as many whole contexts hold


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
        else:
            finish_reason = self.request.early_end
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
      prefill_chunk: maximum number of prompt tokens that are read between two chunks of decoding; 0 (default) reads
        whole prompts.

    Attributes:
      num_ids: number of token ids of the model.
      waiting: queued requests.
    """

    def __init__(
        self,
        model: Any,
        params: Any,
        vocabulary: Codec,
        length: int,
        bidirectional: bool,
        slots: int,
        prefill_chunk: int = 0,
    ):
        self.length, self.num_ids = length, model.arch.vocab_size
        self.waiting: collections.deque[Request] = collections.deque()
        self._model, self._params, self._vocabulary, self._bidirectional = model, params, vocabulary, bidirectional
        self._drawable = drawable_ids(vocabulary, self.num_ids)
        self._texts: list[_Text | None] = [None] * slots
        self._prompts = Prompts(model, params, length, bidirectional, self._drawable, slots, prefill_chunk)
        self._state = self._empty_state()

    def keep_prefixes(self, max_bytes: int) -> None:
        """Keep keys and values of the beginnings of prompts in at most this many bytes; 0 keeps none."""
        if max_bytes and not self._bidirectional:
            self._prompts.prefixes = PrefixCache(max_bytes, _KEPT_CONTEXTS * self.length)

    @property
    def prefixes(self) -> PrefixCache | None:
        """Known beginnings of prompts; None keeps none, as where prompts are read in both directions."""
        return self._prompts.prefixes

    def _empty_state(self) -> DecodeState:
        slots = len(self._texts)
        sampling_params = Sampler().sampling_params(np.zeros(slots), np.zeros(slots), MAX_BIASES)
        return decoding.empty_state(self._model, self._params, slots, self.length, sampling_params)

    @property
    def num_reading(self) -> int:
        """Number of sequences in slots whose prompts have not been read to their ends."""
        return len(self._prompts)

    @property
    def num_active(self) -> int:
        """Number of sequences in slots."""
        return self.num_reading + sum(text is not None for text in self._texts)

    def work(self, chunk: int) -> None:
        """Give free slots to queued requests, read prompts, then decode `chunk` tokens in every slot.

        Raises:
          Exception: of the programs, if they fail on a blank prompt, too.
        """
        try:
            self._admit()
            self._read()
            if any(self._texts):
                self._decode(chunk)
        except Exception:
            texts = list(filter(None, self._texts))
            _LOGGER.exception('Decoding a batch has failed; its %d sequences end.', len(texts))
            for text in texts:
                text.request.finish('error')
            self._texts = [None] * len(self._texts)
            self._state = self._empty_state()  # the old one may have been donated
            if self.prefixes is not None:
                self.prefixes.clear()
            self._prompts.check()

    def _decode(self, chunk: int) -> None:
        num_logprobs = MAX_LOGPROBS if any(t and t.request.num_logprobs for t in self._texts) else 0
        self._state, generated = decoding.decode(
            self._model, self._params, self._state, steps=chunk, num_logprobs=num_logprobs, drawable_V=self._drawable
        )
        self._emit(range(len(self._texts)), generated)

    def _admit(self) -> None:
        self._prompts.drop_ended()
        taken = self._prompts.slots
        free = collections.deque(n for n, text in enumerate(self._texts) if text is None and n not in taken)
        while self.waiting and free:
            request = self.waiting.popleft()
            if (reason := request.early_end) is not None:
                request.finish(reason)
            else:
                self._prompts.add(request, free.popleft())

    def _read(self) -> None:
        """Read prompts, and begin the texts of those that are read to their ends."""
        for prompts, rows, generated in self._prompts.read():
            padded = np.full(len(rows.remaining), len(self._texts), np.int32)  # padding rows have no slot
            for row, prompt in enumerate(prompts):
                limit = min(prompt.request.sampler.max_tokens, self.length - len(prompt.request.prompt))
                self._texts[prompt.slot] = _Text(prompt.request, self._vocabulary, limit)
                padded[row] = prompt.slot
            self._state = decoding.insert(self._state, rows, padded)
            self._emit([prompt.slot for prompt in prompts], generated)

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
                text.request.finish('error')
                has_ended = True
            if has_ended:
                self._texts[slot], keep[slot] = None, False
        if not keep.all():
            self._state = decoding.stop(self._state, keep)

    def cancel_all(self, finish_reason: FinishReason) -> None:
        """Finish every request with this reason."""
        requests = [text.request for text in self._texts if text is not None]
        for request in itertools.chain(requests, self.waiting):
            request.finish(finish_reason)
        self._prompts.finish_all(finish_reason)
        self._texts, self.waiting = [None] * len(self._texts), collections.deque()


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
