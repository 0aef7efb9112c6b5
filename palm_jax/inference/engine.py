"""Continuous batching: requests that arrive at any time are decoded together, and a finished one frees its slot.

One thread does all the work. It iterates over the models; for each it prefills waiting prompts into free slots,
decodes some tokens in all slots at once, and delivers them; see `slots`.
"""

from __future__ import annotations

import logging
import threading
import traceback
from typing import Annotated, Any

from palm_jax.bounds import AtLeast, checked
from palm_jax.errors import UserError
from palm_jax.inference.generate import Codec, Sampler, num_tokens
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

    Attributes:
      failure: traceback of what ended the engine's thread; None while it works.
    """

    def __init__(
        self,
        slots: Annotated[int, AtLeast(1)] = 8,
        max_waiting: Annotated[int, AtLeast(1)] = 64,
        chunk: Annotated[int, AtLeast(1)] = 8,
        prefix_cache_bytes: Annotated[int, AtLeast(0)] = 0,
    ):
        self._slots, self.max_waiting, self._chunk = slots, max_waiting, chunk
        self._prefix_cache_bytes = prefix_cache_bytes
        self._models: dict[str, Slots] = {}
        self._changed, self._stopping = threading.Condition(), False
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name='engine', daemon=True)

    def add(self, name: str, model: Any, params: Any, vocabulary: Codec, length: int, bidirectional: bool) -> None:
        """Add a model, unstacked (`decoding.unstack_layers`), of context length `length` (prompt and completion)."""
        self._models[name] = Slots(model, params, vocabulary, length, bidirectional, self._slots)

    def start(self) -> None:
        """Compile the programs that the first requests need, then start the thread."""
        for model in self._models.values():
            model.keep_prefixes(self._prefix_cache_bytes // len(self._models))
            model.waiting.append(Request((BOS_ID,), Sampler(max_tokens=2), lambda delta: None))
            model.work(self._chunk)
        self._thread.start()

    def submit(self, name: str, *requests: Request) -> None:
        """Queue requests for the model `name`; all of them or none.

        Raises:
          Busy: the queue is full.
          UserError: a prompt leaves no room for a single token, or contains an id that the model does not have.
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
