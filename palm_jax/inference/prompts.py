"""Prompts of a model that are read in turns and in pieces, so that texts are written meanwhile; see `slots`.

A long prompt is read a piece at a time (chunked prefill: Agrawal et al., arXiv 2308.16369). A piece continues from the
keys and values of those before it, and after it the other prompts have their turns. Short prompts are read together.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.inference import decoding
from palm_jax.inference.decoding import Beginning, DecodeState, Generated
from palm_jax.inference.generate import Sampler, next_power_of_two
from palm_jax.inference.prefix_cache import PrefixCache
from palm_jax.inference.requests import MAX_BIASES, MAX_LOGPROBS, FinishReason, Request
from palm_jax.inference.sampling import Array, SamplingParams
from palm_jax.models.quantization import dequantize_tree
from palm_jax.special_ids import BOS_ID

_LOGGER = logging.getLogger(__name__)
_LEAST_WIDTH = 16  # tokens; fewer are padded, so that there are few programs


@dataclasses.dataclass(eq=False)
class Prompt:
    """A prompt that is read for a slot.

    Attributes:
      request: request whose prompt it is.
      slot: slot in which its text will be written.
      beginning: keys and values [1, M, G, K] of what has been read of it; None before its first piece.
    """

    request: Request
    slot: int
    beginning: Beginning | None = None


class Batch(NamedTuple):
    """Prompts that have been read to their ends.

    Attributes:
      prompts: prompts.
      rows: state of at least as many rows.
      generated: first token of each row.
    """

    prompts: Sequence[Prompt]
    rows: DecodeState
    generated: Generated


class Prompts:
    """A queue of prompts of one model.

    Args:
      model: unstacked model, see `decoding.unstack_layers`.
      params: parameters of `model`.
      length: context length: maximum tokens of prompt and completion together.
      bidirectional: whether prompt tokens attend to each other in both directions (prefix LM); such prompts are read
        whole, those that need more tokens than `chunk` one at a time.
      drawable_V: ids that may be generated, bool.
      max_rows: maximum number of prompts that are read together.
      chunk: maximum number of tokens that a call of `read` reads; 0 reads all prompts whole.

    Attributes:
      prefixes: known beginnings of prompts; None keeps none.
    """

    def __init__(
        self, model: Any, params: Any, length: int, bidirectional: bool, drawable_V: Array, max_rows: int, chunk: int
    ):
        self._model, self._params, self._length, self._bidirectional = model, params, length, bidirectional
        self._drawable, self._max_rows = drawable_V, max_rows
        self._chunk = chunk or math.inf
        self._piece = math.inf if bidirectional else self._chunk
        self._queue: collections.deque[Prompt] = collections.deque()
        self.prefixes: PrefixCache | None = None

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def slots(self) -> set[int]:
        """Slots whose prompts are in the queue."""
        return {prompt.slot for prompt in self._queue}

    def add(self, request: Request, slot: int) -> None:
        """Queue the prompt of a request, which will be written in a slot."""
        self._queue.append(Prompt(request, slot))

    def drop_ended(self) -> None:
        """Finish the requests that were cancelled or whose time is over."""
        for prompt in list(self._queue):
            if (reason := prompt.request.early_end) is not None:
                self._queue.remove(prompt)
                prompt.request.finish(reason)

    def finish_all(self, finish_reason: FinishReason) -> None:
        """Finish all requests with this reason."""
        while self._queue:
            self._queue.popleft().request.finish(finish_reason)

    def read(self) -> Iterator[Batch]:
        """Read up to `chunk` tokens, and yield the prompts that are read to their ends.

        The caller takes over a batch before it asks for the next. A prompt that cannot be read ends alone, with the
        finish reason `error`.

        Raises:
          Exception: of the programs, if they fail on a blank prompt, too.
        """
        room = self._chunk
        while room > 0:
            prompts, rest = self._next(room)
            if not prompts:
                return
            room -= self._cost(len(prompts), rest)
            if rest > self._piece:
                self._read_piece(prompts[0])
            else:
                yield from self._finish(prompts, rest)

    def check(self) -> None:
        """Read a blank prompt; raise what its program raises."""
        self._prefill([Request((BOS_ID,), Sampler(max_tokens=1), lambda delta: None)])

    def _next(self, room: float) -> tuple[list[Prompt], int]:
        """Return the prompts whose turn it is: one that is read in pieces, or some that are read together.

        What prompts share is read with the first of them: the others wait for it. Prompts with a known beginning are
        apart from those without.

        Returns:
          The prompts, none if they need more than `room` tokens, and the most that is left to be read of one.
        """
        progress = [self._progress(prompt) for prompt in self._queue]
        begun = {
            block for prompt, (_, block) in zip(self._queue, progress, strict=True) if prompt.beginning is not None
        }
        found, most, is_known = list[Prompt](), 0, False
        for prompt, (known, block) in zip(self._queue, progress, strict=True):
            if prompt.beginning is None and block is not None and block in begun:
                continue
            rest = len(prompt.request.prompt) - known
            is_alone = prompt.beginning is not None or rest > self._piece
            if found and (is_alone or (known > 0) != is_known):
                continue
            is_first = not found and room == self._chunk
            if not is_first and self._cost(len(found) + 1, max(most, rest)) > room:
                if not found:
                    break
                continue
            found.append(prompt)
            most, is_known = max(most, rest), known > 0
            begun.add(block)
            if is_alone:
                break
        return found, most

    def _progress(self, prompt: Prompt) -> tuple[int, Any]:
        """Return the number of tokens of a prompt that need not be read any more, and the first unknown block."""
        known, block = (0, None) if self.prefixes is None else self.prefixes.find(prompt.request.prompt)
        return (known if prompt.beginning is None else int(prompt.beginning.length[0])), block

    def _cost(self, count: int, rest: int) -> float:
        """Number of tokens, with those of padding, of a program that reads up to `rest` tokens of `count` prompts."""
        return self._num_rows(count) * min(next_power_of_two(rest, _LEAST_WIDTH), self._piece)

    def _num_rows(self, count: int) -> int:
        """Number of rows, one of few, to which prompts that are read together are padded."""
        size = 1
        while size < count:
            size *= 4
        return min(size, self._max_rows)

    def _width(self, requests: Sequence[Request]) -> int:
        """Number of tokens, one of few, to which prompts that are read together are padded."""
        return min(next_power_of_two(max(len(r.prompt) for r in requests), _LEAST_WIDTH), self._length)

    def _read_piece(self, prompt: Prompt) -> None:
        """Read the next piece of a prompt; the other prompts come before the one after it."""
        request, piece = prompt.request, int(self._piece)
        ids, width = request.prompt, self._width([request])
        try:
            beginning, prompt.beginning = prompt.beginning, None  # whose keys and values are donated
            if beginning is None and self.prefixes is not None:
                beginning = self.prefixes.match([ids], 1, width)
                request.cached_tokens = 0 if beginning is None else int(beginning.length[0])
            start = 0 if beginning is None else int(beginning.length[0])
            cache = _read(
                self._model, self._params, np.array([ids[start : start + piece]], np.int32),
                np.array([start], np.int32), None if beginning is None else beginning.cache, width=width,
            )  # fmt: skip
            jax.block_until_ready(cache)  # or pieces would queue up on the device, before what others ask for
        except Exception:
            self._fail(prompt)
            return
        start += piece
        prompt.beginning = Beginning(cache, np.array([start], np.int32), num_new=piece)
        self._queue.remove(prompt)
        self._queue.append(prompt)
        if self.prefixes is not None:
            self.prefixes.add([ids[:start]], cache, width)

    def _finish(self, prompts: Sequence[Prompt], rest: int) -> Iterator[Batch]:
        """Read prompts to their ends; if that raises, one after another, and end those that raise alone."""
        requests, beginning = [prompt.request for prompt in prompts], prompts[0].beginning
        if beginning is not None:
            num_new = min(next_power_of_two(rest, _LEAST_WIDTH), int(self._piece))
            beginning = dataclasses.replace(beginning, num_new=num_new)
        try:
            rows, generated = self._prefill(requests, beginning)
        except Exception:
            if len(prompts) > 1:
                for prompt in prompts:
                    yield from self._finish([prompt], rest)
                return
            self._fail(prompts[0])
            return
        for prompt in prompts:
            self._queue.remove(prompt)
        yield Batch(prompts, rows, generated)
        if self.prefixes is not None:
            self.prefixes.add([request.prompt for request in requests], rows.cache, self._width(requests))

    def _fail(self, prompt: Prompt) -> None:
        """End the request of a prompt that could not be read."""
        _LOGGER.exception('Prefilling a prompt has failed; its sequence ends.')
        self._queue.remove(prompt)
        prompt.request.finish('error')
        self.check()

    def _prefill(
        self, requests: Sequence[Request], beginning: Beginning | None = None
    ) -> tuple[DecodeState, Generated]:
        """Return the state of requests, padded to one of few shapes, and their first tokens.

        Args:
          requests: requests.
          beginning: what has been read of their prompts; None is what is known of them.
        """
        size, width = self._num_rows(len(requests)), self._width(requests)
        tokens, lengths, left = np.zeros((size, width), np.int32), np.ones(size, np.int32), np.zeros(size, np.int32)
        for row, request in enumerate(requests):
            lengths[row] = len(request.prompt)
            tokens[row, : lengths[row]] = request.prompt
            left[row] = min(request.sampler.max_tokens, self._length - lengths[row])
        if beginning is None and self.prefixes is not None:
            beginning = self.prefixes.match([request.prompt for request in requests], size, width)
            for row, request in enumerate(requests):
                request.cached_tokens = 0 if beginning is None else int(beginning.length[row])
        rows, generated = decoding.prefill(
            self._model, self._params, tokens, lengths, left, _sampling_params(requests, size), room=0,
            bidirectional=self._bidirectional, num_logprobs=MAX_LOGPROBS, with_penalty=True,
            drawable_V=self._drawable, beginning=beginning,
        )  # fmt: skip
        return rows, jax.device_get(generated)


@functools.partial(jax.jit, static_argnames=('model', 'width'), donate_argnames='cache')
def _read(model: Any, params: Any, tokens_1P: jax.Array, start_1: jax.Array, cache: Any, *, width: int) -> Any:
    """Return keys and values of a prompt with those of its next tokens.

    Args:
      model: unstacked model.
      params: parameters of `model`.
      tokens_1P: next P tokens.
      start_1: number of tokens before them, int32.
      cache: keys and values [1, M, G, K] of every layer, donated; None if there are no tokens before.
      width: number of tokens that the cache has room for.
    """
    variables = {'params': dequantize_tree(params, model.arch.dtype)}
    P = tokens_1P.shape[1]
    if cache is None:
        return decoding.read(model, variables, tokens_1P, start_1 + P, width - P)[1]
    positions_1P = start_1[:, None] + jnp.arange(P)
    variables = variables | {'cache': cache}
    return model.apply(variables, tokens_1P, positions_1P, method='features', mutable=['cache'])[1]['cache']


def _sampling_params(requests: Sequence[Request], size: int) -> SamplingParams:
    """Stack the sampling parameters of the requests, padded to `size` rows."""
    padded = [*requests, *[requests[-1]] * (size - len(requests))]
    of_each = [r.sampler.sampling_params(np.zeros(1), np.array([r.sample]), MAX_BIASES) for r in padded]
    return jax.tree.map(lambda *rows: np.concatenate(rows), *of_each)
