"""Continuous batching: requests that arrive at any time are decoded together, and a finished one frees its slot.

One thread does all the work. It iterates over the models; for each it reads prompts of waiting requests, long ones in
pieces, decodes some tokens in all slots at once, and delivers them; see `slots`.
"""

from __future__ import annotations

import collections
import logging
import threading
import traceback
from typing import Annotated, Any

from palm_jax.bounds import AtLeast, checked
from palm_jax.errors import UserError
from palm_jax.inference.completion import Codec
from palm_jax.inference.generate import Sampler, check_biases, num_tokens
from palm_jax.inference.requests import MAX_LOGPROBS, Delta, FinishReason, Request, Token
from palm_jax.inference.slots import Slots
from palm_jax.special_ids import BOS_ID

__all__ = ['MAX_LOGPROBS', 'Busy', 'Delta', 'Engine', 'FinishReason', 'Request', 'Token']

_LOGGER = logging.getLogger(__name__)


class Busy(Exception):
    """The request queue is full."""


@checked
class Engine:
    """Generates text with several models.

    Args:
      slots: number of sequences decoded in parallel, per model.
      max_waiting: maximum number of queued requests; `submit` raises `Busy` beyond it.
      chunk: number of tokens decoded between two admissions.
      prefix_cache_bytes: maximum size in bytes of the keys and values that are kept of the beginnings of prompts, of
        all models together; 0 keeps none.
      prefill_chunk: maximum number of prompt tokens of a model that are read between two chunks of decoding, default
        512; 0 reads whole prompts. Prompts that are read in both directions are read whole in any case.

    Attributes:
      failure: traceback of what ended the engine's thread; None while it works.
    """

    def __init__(
        self,
        slots: Annotated[int, AtLeast(1)] = 8,
        max_waiting: Annotated[int, AtLeast(1)] = 64,
        chunk: Annotated[int, AtLeast(1)] = 8,
        prefix_cache_bytes: Annotated[int, AtLeast(0)] = 0,
        prefill_chunk: Annotated[int, AtLeast(0)] = 512,
    ):
        self._slots, self.max_waiting, self._chunk = slots, max_waiting, chunk
        self._prefix_cache_bytes, self._prefill_chunk = prefix_cache_bytes, prefill_chunk
        self._models: dict[str, Slots] = {}  # replaced as a whole, because other threads iterate over it
        self._released: collections.deque[str] = collections.deque()
        self._changed, self._stopping = threading.Condition(), False
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name='engine', daemon=True)

    def add(self, name: str, model: Any, params: Any, vocabulary: Codec, length: int, bidirectional: bool) -> None:
        """Add a model, unstacked (`decoding.unstack_layers`), of context length `length` (prompt and completion).

        To an engine that has been started it is added once its programs are compiled, while the others go on.

        Raises:
          Exception: what its programs raise; it is not added then.
        """
        slots = Slots(model, params, vocabulary, length, bidirectional, self._slots, self._prefill_chunk)
        if self._thread.is_alive():
            self._compile(slots)
        with self._changed:
            self._models = {**self._models, name: slots}

    def release(self, name: str) -> None:
        """Let go of a model and its memory; nothing will be submitted to it any more. May be called by any thread."""
        self._released.append(name)
        with self._changed:
            self._changed.notify()

    def start(self) -> None:
        """Compile the programs that the first requests need, then start the thread."""
        self._prefix_cache_bytes //= max(1, len(self._models))  # from now on of each, also of one that replaces another
        for model in self._models.values():
            self._compile(model)
        self._thread.start()

    def _compile(self, model: Slots) -> None:
        model.keep_prefixes(self._prefix_cache_bytes)
        model.waiting.append(Request((BOS_ID,), Sampler(max_tokens=2), lambda delta: None))
        model.work(self._chunk)

    def submit(self, name: str, *requests: Request) -> None:
        """Queue requests for the model `name`; all of them or none.

        Raises:
          Busy: the queue is full.
          UserError: a prompt leaves no room for a single token, or it or `logit_bias` has an id that the model lacks.
        """
        model = self._models[name]
        for request in requests:
            if len(request.prompt) >= model.length:
                raise UserError(
                    f'The prompt has {num_tokens(request.prompt)}; the context length is '
                    f'{model.length} tokens, prompt and completion together.'
                )
            if unknown := [i for i in request.prompt if not 0 <= i < model.num_ids]:
                raise UserError(f'Token {unknown[0]} is unknown: the model has {model.num_ids}.')
            check_biases(request.sampler, model.num_ids)
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
        """Number of sequences in slots."""
        return sum(model.num_active for model in self._models.values())

    @property
    def num_reading(self) -> int:
        """Number of sequences in slots whose prompts have not been read to their ends."""
        return sum(model.num_reading for model in self._models.values())

    @property
    def num_kept(self) -> int:
        """Number of tokens of prompts whose keys and values are kept."""
        return sum(model.prefixes.num_tokens for model in self._models.values() if model.prefixes is not None)

    def stop(self) -> None:
        """Cancel all requests and stop the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _drop_released(self) -> None:
        """Drop the models that were released and have nothing left to do."""
        for name in [self._released.popleft() for _ in range(len(self._released))]:
            if self._models[name].num_active or self._models[name].waiting:
                self._released.append(name)  # requests that nobody reads, which have been cancelled
            else:
                self._models = {n: model for n, model in self._models.items() if n != name}

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._stopping or self._released or self.num_waiting or self.num_active
                    )
                    if self._stopping:
                        return
                    self._drop_released()
                    models = list(self._models.values())
                for model in models:
                    model.work(self._chunk)
        except Exception:  # whatever it was, waiting clients must be answered
            self.failure = traceback.format_exc()
            _LOGGER.error(self.failure)
        finally:
            for model in self._models.values():
                model.cancel_all('error' if self.failure else 'cancelled')
