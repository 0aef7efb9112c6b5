"""The texts of one request on their way from the engine's thread to the client, and what is counted on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from palm_jax.errors import UserError
from palm_jax.inference.engine import Busy, Delta, Engine
from palm_jax.inference.engine import Request as EngineRequest
from palm_jax.inference.generate import Sampler
from palm_jax.serving import protocol
from palm_jax.serving.errors import Failure
from palm_jax.serving.limits import Limits
from palm_jax.serving.models import Served


class Counters:
    """What Prometheus is told, of one server."""

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        of = {'namespace': 'palm_jax', 'registry': self.registry}
        self.requests = Counter('requests', 'Requests answered', ['route', 'status'], **of)
        self.seconds = Histogram('request_seconds', 'Time of whole requests', ['route'], **of)
        self.read = Counter('prompt_tokens', 'Tokens read', ['model'], **of)
        self.written = Counter('completion_tokens', 'Tokens written', ['model'], **of)
        self.first = Histogram('first_token_seconds', 'Time to the first piece of text', ['model'], **of)
        Gauge('waiting', 'Texts that have no place yet', **of).set_function(lambda: engine.num_waiting)
        Gauge('active', 'Texts being written', **of).set_function(lambda: engine.num_active)


class Texts:
    """The texts of one request, on their way from the engine's thread to the client."""

    def __init__(self, engine: Engine, served: Served, counters: Counters, limits: Limits):
        self._engine, self._served, self._counters, self._limits = engine, served, counters, limits
        self._pieces: asyncio.Queue[tuple[int, Delta]] = asyncio.Queue()
        self._requests: list[EngineRequest] = []
        self.num_read, self.num_written = 0, 0

    def submit(self, prompts: Sequence[Sequence[int]], n: int, sampler: Sampler, num_logprobs: int) -> None:
        """Asks for n texts behind each prompt.

        Raises:
          Failure: no room, or too many at once.
        """
        loop, deadline = asyncio.get_running_loop(), time.monotonic() + self._limits.seconds

        def hand_out_of(index: int):
            def on_delta(piece: Delta) -> None:
                with contextlib.suppress(RuntimeError):  # the loop may have ended
                    loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))

            return on_delta

        for number, prompt in enumerate(prompts):
            for sample in range(n):
                on_delta = hand_out_of(number * n + sample)
                self._requests.append(EngineRequest(prompt, sampler, on_delta, sample, num_logprobs, deadline))
        if len(self._requests) > self._engine.max_waiting:
            most = self._engine.max_waiting
            raise Failure(400, f'{len(self._requests)} texts in one request; at most {most} may wait.', param='n')
        self.num_read = sum(map(len, prompts))
        self._counters.read.labels(self._served.name).inc(self.num_read)
        try:
            self._engine.submit(self._served.name, *self._requests)
        except Busy:
            raise Failure(429, 'Too many requests wait. Come again soon.', 'busy', Retry_After='1') from None
        except UserError as error:
            raise Failure(400, str(error), 'context_length_exceeded') from None

    async def pieces(self) -> AsyncIterator[tuple[int, Delta]]:
        """(number of the text, piece) as they come, until all have ended."""
        start, open_texts = time.monotonic(), len(self._requests)
        while open_texts:
            index, piece = await self._pieces.get()
            if not self.num_written and piece.tokens:
                self._counters.first.labels(self._served.name).observe(time.monotonic() - start)
            self.num_written += len(piece.tokens)
            self._counters.written.labels(self._served.name).inc(len(piece.tokens))
            open_texts -= piece.finish_reason is not None
            yield index, piece

    async def whole(self, request: Request) -> list[Delta]:
        """All texts once they have ended; a client that leaves cancels them."""
        found = [Delta('', ())] * len(self._requests)

        async def collect() -> None:
            async for index, piece in self.pieces():
                had = found[index]
                found[index] = Delta(had.text + piece.text, had.tokens + piece.tokens, piece.finish_reason)

        task = asyncio.create_task(collect())
        try:
            while not (await asyncio.wait({task}, timeout=0.25))[0]:
                if await request.is_disconnected():
                    raise Failure(400, 'The client left.')
            await task
        finally:
            task.cancel()
            self.cancel()
        for piece in found:
            if failure := failure_of(piece):
                raise failure
        return found

    def cancel(self) -> None:
        """Frees the places of all that still runs."""
        for request in self._requests:
            request.cancel()

    @property
    def usage(self) -> protocol.Usage:
        """Tokens so far."""
        total = self.num_read + self.num_written
        return protocol.Usage(prompt_tokens=self.num_read, completion_tokens=self.num_written, total_tokens=total)


def failure_of(piece: Delta) -> Failure | None:
    """Of a text that ended otherwise than by itself."""
    return {
        'timeout': Failure(504, 'The answer took too long.', 'timeout'),
        'cancelled': Failure(503, 'The server is about to stop.'),
        'error': Failure(500, 'The engine has failed; the log of the server says why.'),
    }.get(piece.finish_reason)
