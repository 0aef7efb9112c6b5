"""Forward passes of requests that generate nothing: one at a time, beside the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool

from palm_jax.inference.engine import Engine
from palm_jax.serving.errors import Failure, busy
from palm_jax.serving.limits import Limits


class ForwardPasses:
    """Calls functions in a thread, one after another.

    Args:
      engine: engine of the server, whose limit on waiting requests holds here, too.
      limits: limits on requests.
    """

    def __init__(self, engine: Engine, limits: Limits):
        self._engine, self._limits = engine, limits
        self._lock, self._num_waiting = asyncio.Semaphore(1), 0

    async def __call__(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return the result of a function once those before it have returned.

        Raises:
          Failure: too many requests are waiting, or this one has waited too long.
        """
        if self._num_waiting >= self._engine.max_waiting:
            raise busy()
        self._num_waiting += 1
        try:
            await asyncio.wait_for(self._lock.acquire(), self._limits.seconds)
        except TimeoutError:
            raise Failure(504, 'Other requests took too long.', 'timeout') from None
        finally:
            self._num_waiting -= 1
        try:
            return await run_in_threadpool(function, *arguments, **options)
        finally:
            self._lock.release()
