"""The texts generated for one request, on their way from the engine's thread to the client, and the metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from palm_jax.errors import UserError
from palm_jax.inference.engine import Busy, Delta, Engine
from palm_jax.inference.engine import Request as EngineRequest
from palm_jax.inference.generate import Sampler
from palm_jax.serving import response_bodies
from palm_jax.serving.errors import Failure, busy
from palm_jax.serving.limits import Limits
from palm_jax.serving.models import ServedModel
from palm_jax.serving.screening import Screening


class Counters:
    """Prometheus metrics of one server."""

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {'namespace': 'palm_jax', 'registry': self.registry}
        self.requests = Counter('requests', 'Completed requests', ['route', 'status'], **of)
        self.seconds = Histogram('request_seconds', 'Duration of requests', ['route'], **of)
        self.prompt_tokens = Counter('prompt_tokens', 'Tokens of prompts', ['model'], **of)
        self.cached_tokens = Counter(
            'cached_prompt_tokens', 'Tokens of prompts that had been read before', ['model'], **of
        )
        self.completion_tokens = Counter('completion_tokens', 'Generated tokens', ['model'], **of)
        self.first_token = Histogram('first_token_seconds', 'Time to the first token', ['model'], **of)
        Gauge('waiting', 'Texts that wait for a slot', **of).set_function(lambda: engine.num_waiting)
        Gauge('active', 'Texts that are being generated', **of).set_function(lambda: engine.num_active)
        Gauge('reading', 'Texts of which the prompts are being read, among the active ones', **of).set_function(
            lambda: engine.num_reading
        )
        Gauge('prefix_cache_tokens', 'Tokens of beginnings of prompts that are kept', **of).set_function(
            lambda: engine.num_kept
        )


class Texts:
    """The texts generated for one request.

    Args:
      engine: generates them.
      served: the model.
      counters: metrics to be updated.
      limits: limits on a request.
      screening: rules about what is written.
    """

    def __init__(
        self,
        engine: Engine,
        served: ServedModel,
        counters: Counters,
        limits: Limits,
        screening: Screening = Screening(),
    ):
        self._engine, self._served, self._counters, self._limits = engine, served, counters, limits
        self._screening = screening
        self._deltas: asyncio.Queue[tuple[int, Delta]] = asyncio.Queue()
        self._requests: list[EngineRequest] = []
        self._num_prompt_tokens, self._num_generated, self._num_cached = 0, 0, 0
        self._begun: set[int] = set()  # numbers of texts of which a delta has arrived

    def submit(self, prompts: Sequence[Sequence[int]], n: int, sampler: Sampler, num_logprobs: int) -> None:
        """Request n completions of each prompt.

        Raises:
          Failure: if the queue is full, or too many or too long texts are requested.
        """
        loop, deadline = asyncio.get_running_loop(), time.monotonic() + self._limits.seconds

        def on_delta_of(index: int) -> Callable[[Delta], None]:
            def on_delta(delta: Delta) -> None:
                with contextlib.suppress(RuntimeError):  # the loop may have ended
                    loop.call_soon_threadsafe(self._deltas.put_nowait, (index, delta))

            return on_delta

        for number, prompt in enumerate(prompts):
            for sample in range(n):
                on_delta = on_delta_of(number * n + sample)
                self._requests.append(EngineRequest(prompt, sampler, on_delta, sample, num_logprobs, deadline))
        if len(self._requests) > self._engine.max_waiting:
            limit = self._engine.max_waiting
            raise Failure(400, f'{len(self._requests)} texts in one request; at most {limit} are allowed.', param='n')
        self._num_prompt_tokens = sum(map(len, prompts))
        self._counters.prompt_tokens.labels(self._served.name).inc(self._num_prompt_tokens)
        try:
            self._engine.submit(self._served.in_engine, *self._requests)
        except Busy:
            raise busy() from None
        except UserError as error:
            raise Failure(400, str(error), 'context_length_exceeded') from None

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """Yield (number of the text, delta) in order of arrival, until all texts have ended.

        If rules read what is written, every text is one delta.
        """
        if not self._screening.reads_answers:
            async for index, delta in self._arriving():
                yield index, delta
            return
        written = [Delta('', ())] * len(self._requests)
        async for index, delta in self._arriving():
            written[index] = _joined(written[index], delta)
        for index, delta in enumerate(await self._screening.answers(self._served, written)):
            yield index, delta

    async def _arriving(self) -> AsyncIterator[tuple[int, Delta]]:
        """Yield (number of the text, delta) in order of arrival, and count them."""
        start, num_open = time.monotonic(), len(self._requests)
        while num_open:
            index, delta = await self._deltas.get()
            if not self._num_generated and delta.tokens:
                self._counters.first_token.labels(self._served.name).observe(time.monotonic() - start)
            self._count_cached(index)
            self._num_generated += len(delta.tokens)
            self._counters.completion_tokens.labels(self._served.name).inc(len(delta.tokens))
            num_open -= delta.finish_reason is not None
            yield index, delta

    def _count_cached(self, index: int) -> None:
        """Count what was known of a prompt when its first completion began; the others always know what that read."""
        if index not in self._begun and self._requests[index].sample == 0:
            self._num_cached += self._requests[index].cached_tokens
            self._counters.cached_tokens.labels(self._served.name).inc(self._requests[index].cached_tokens)
        self._begun.add(index)

    async def whole(self, request: Request) -> list[Delta]:
        """Return all texts once they have ended; a client that disconnects cancels them.

        Raises:
          Failure: if a text ended by a timeout, an error or the end of the server.
        """
        found = [Delta('', ())] * len(self._requests)

        async def collect() -> None:
            async for index, delta in self.deltas():
                found[index] = _joined(found[index], delta)

        task = asyncio.create_task(collect())
        try:
            while not (await asyncio.wait({task}, timeout=0.25))[0]:
                if await request.is_disconnected():
                    raise Failure(400, 'The client disconnected.')
            await task
        finally:
            task.cancel()
            self.cancel()
        for delta in found:
            if failure := failure_of(delta):
                raise failure
        return found

    def cancel(self) -> None:
        """Cancel the texts that are still being generated, and free their slots."""
        for request in self._requests:
            request.cancel()

    @property
    def usage(self) -> response_bodies.Usage:
        """Number of tokens so far."""
        return response_bodies.Usage(
            prompt_tokens=self._num_prompt_tokens,
            completion_tokens=self._num_generated,
            total_tokens=self._num_prompt_tokens + self._num_generated,
            prompt_tokens_details=response_bodies.PromptTokensDetails(cached_tokens=self._num_cached),
        )


def _joined(before: Delta, after: Delta) -> Delta:
    return Delta(before.text + after.text, before.tokens + after.tokens, after.finish_reason)


def failure_of(delta: Delta) -> Failure | None:
    """Return the error of a text that was ended by the server, if it was."""
    if delta.finish_reason == 'timeout':
        return Failure(504, 'Generating the answer took too long.', 'timeout')
    if delta.finish_reason == 'cancelled':
        return Failure(503, 'The server is shutting down.')
    if delta.finish_reason == 'error':
        return Failure(500, "The engine has failed to generate the text; see the server's log.")
    return None
