"""The text of a prompt's continuation as it grows, up to EOS or a stop sequence, and when it is finished."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from palm_jax.inference.decoding import Generated
from palm_jax.special_ids import EOS_ID


class Codec(Protocol):
    """The part of a vocabulary that generation uses."""

    def encode(self, text: str) -> list[int]:
        """Encode a text as token ids."""

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids to a text."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """One completion of a prompt.

    Attributes:
      ids: generated token ids, without EOS.
      text: decoded text, cut before the first stop sequence.
      finish_reason: `stop` at EOS or a stop sequence, `length` if the token limit was reached.
      logprobs: log-probability of each token under the model, followed by that of EOS if it was generated.
      score: ranking score among several completions of a prompt: the sum of `logprobs`, length-normalized
        by beam search.
    """

    ids: tuple[int, ...]
    text: str
    finish_reason: Literal['stop', 'length']
    logprobs: tuple[float, ...]
    score: float


@dataclasses.dataclass
class RowText:
    """The text of one row as it grows.

    Attributes:
      vocabulary: decodes the ids.
      stop: stop sequences.
      ids: token ids so far, without EOS.
      logprobs: log-probabilities so far, including that of EOS.
      has_ended: whether EOS or a stop sequence was generated.
    """

    vocabulary: Codec
    stop: Sequence[str] = ()
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    has_ended: bool = False

    def add(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Append generated tokens; those after the end are dropped."""
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
        # Only the newest tokens can have completed a stop sequence.
        if not any(s in self.vocabulary.decode(self.ids[-self._tail :]) for s in self.stop):
            return None
        text = self.vocabulary.decode(self.ids)
        indices = [text.find(s) for s in self.stop]
        return min((index for index in indices if index >= 0), default=None)

    @property
    def text(self) -> str:
        """The text before the first stop sequence."""
        return self.vocabulary.decode(self.ids)[: self._stop_at() if self.stop else None]

    def completion(self) -> Completion:
        """Return the tokens so far as a completion."""
        finish_reason: Literal['stop', 'length'] = 'stop' if self.has_ended else 'length'
        return Completion(tuple(self.ids), self.text, finish_reason, tuple(self.logprobs), sum(self.logprobs))


def add_generated(texts: Sequence[RowText], written: Generated) -> None:
    """Append the tokens of some steps to the texts of their rows."""
    tokens, count, logprobs = (np.asarray(x) for x in (written.tokens, written.count, written.logprobs))
    for text, ids, n, row_logprobs in zip(texts, tokens, count, logprobs, strict=True):
        text.add(ids[:n].tolist(), row_logprobs[:n].tolist())
