"""What is asked of the engine, and what it delivers."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

from palm_jax.inference.generate import Sampler

_LOGGER = logging.getLogger(__name__)
MAX_LOGPROBS = 20
MAX_BIASES = 300  # tokens of a request with a bias

FinishReason = Literal['stop', 'length', 'timeout', 'cancelled', 'error', 'content_filter']  # the last by a server


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
      cached_tokens: number of the prompt's first tokens that were not read because their keys and values were known,
        see `prefix_cache`; set before the first delta.
    """

    prompt: Sequence[int]
    sampler: Sampler
    on_delta: Callable[[Delta], None]
    sample: int = 0
    num_logprobs: int = 0
    deadline: float = float('inf')
    is_cancelled: bool = dataclasses.field(default=False, init=False)
    cached_tokens: int = dataclasses.field(default=0, init=False)

    def cancel(self) -> None:
        """Cancel the request and free its slot."""
        self.is_cancelled = True

    @property
    def early_end(self) -> FinishReason | None:
        """Why generation ends now, however far it is: the request was cancelled, or its time is over; else None."""
        if self.is_cancelled:
            return 'cancelled'
        return 'timeout' if time.monotonic() > self.deadline else None

    def finish(self, finish_reason: FinishReason) -> None:
        """Deliver the end of a request without further text; what `on_delta` raises is logged."""
        try:
            self.on_delta(Delta('', (), finish_reason))
        except Exception:
            _LOGGER.exception('The end of a sequence could not be delivered.')
