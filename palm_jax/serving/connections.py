"""Connections of the server: their number is limited, and those that keep it waiting are cut."""

from __future__ import annotations

import asyncio
import functools
import signal
import socket
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from palm_jax.serving.errors import Failure
from palm_jax.serving.limits import Limits


def create_server(app: ASGIApp, limits: Limits, **options: Any) -> uvicorn.Server:
    """Return the HTTP server of an application.

    Args:
      app: ASGI application.
      limits: limits on connections, and the time that running requests have to end after a signal.
      options: further options of `uvicorn.Config`.
    """
    config = uvicorn.Config(
        app,
        http=functools.partial(Connection, limits=limits),  # type: ignore[arg-type]  # it is called like a class
        ws='none',
        log_level='error',  # a warning for every request that is not HTTP would fill the log
        timeout_graceful_shutdown=int(limits.seconds) + 1,
        **options,
    )
    return uvicorn.Server(config)


class Connection(H11Protocol):
    """An HTTP connection with deadlines.

    Whenever no request is running, the whole header of the next one must arrive in time, however steadily its bytes
    drip; and a client must not stop reading its response. Between requests, uvicorn cuts connections that are silent
    for five seconds.
    """

    def __init__(self, *arguments: Any, limits: Limits, **options: Any):
        super().__init__(*arguments, **options)
        self._limits = limits
        self._waiting: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request; beyond the limit its response is a refusal, far beyond it there is none."""
        super().connection_made(transport)
        if len(self.connections) > 2 * self._limits.max_connections:
            transport.abort()
            return
        if len(self.connections) > self._limits.max_connections:
            self.app = _refuse_connection
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request, or of its header."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        for timer in (self._waiting, self._stalled):
            if timer is not None:
                timer.cancel()
        self._waiting = self._stalled = None
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait until the client has read some of its response."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self._limits.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue the response."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _watch(self) -> None:
        """Start the deadline of the next header if no request is running and none has started; else cancel it."""
        is_running = self.cycle is not None and not self.cycle.response_complete
        if is_running and self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        elif not is_running and self._waiting is None and not self.transport.is_closing():
            self._waiting = self.loop.call_later(self._limits.header_seconds, self._cut)

    def _cut(self) -> None:
        self._waiting = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


async def _refuse_connection(scope: Scope, receive: Receive, send: Send) -> None:
    failure = Failure(429, 'Too many connections; retry later.', 'busy', Retry_After='1', Connection='close')
    await failure.response()(scope, receive, send)


def run(server: uvicorn.Server, listening: socket.socket, opened: Iterable[AbstractContextManager[Any]]) -> None:
    """Run a server until a signal, close what it wrote to, and end by that signal.

    Args:
      server: the server, which raises the signal that ended it once more.
      listening: the socket on which it listens.
      opened: files and databases of the server.
    """
    received: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()  # no other thread may handle signals
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number)) if is_main else None
    with ExitStack() as stack:
        for each in opened:
            stack.enter_context(each)
        server.run(sockets=[listening])
    if is_main:
        signal.signal(signal.SIGTERM, before)
    for number in received:
        signal.raise_signal(number)
