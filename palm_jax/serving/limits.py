"""Checks before every request: the host, the API key, and the size and the arrival time of the body."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import time

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from palm_jax.serving.errors import Failure
from palm_jax.serving.hosts import Hosts

_BODIES = 16  # bodies of the maximum size that may be in memory


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on requests and connections.

    Attributes:
      body_bytes: maximum size of a request's body; all requests together may hold 16 times as much.
      body_seconds: maximum time for the body to arrive.
      max_tokens: maximum number of tokens of a completion.
      seconds: maximum time for a request; the text is ended after it.
      token: API key that must be sent as `Authorization: Bearer ...`; None requires none.
      hosts: names that the Host header may have; the default accepts any.
      max_connections: maximum number of open connections; requests of further ones get status 429.
      header_seconds: maximum time for a connection to send the whole header of its next request.
      stall_seconds: maximum time for a client to accept the next bytes of a response.
    """

    body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    max_tokens: int = 4096
    seconds: float = 300.0
    token: str | None = None
    hosts: Hosts = Hosts()
    max_connections: int = 1024
    header_seconds: float = 10.0
    stall_seconds: float = 60.0


class Gate:
    """ASGI middleware that checks requests and counts them."""

    def __init__(self, app: ASGIApp, limits: Limits, requests: Counter, seconds: Histogram):
        self._app, self._limits, self._requests, self._seconds = app, limits, requests, seconds
        self._num_bytes = 0  # size of all bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        start, status, body = time.monotonic(), 499, bytearray()  # 499 if the client disconnects before the response

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            await send(message)

        try:
            self._check(scope)
            if await self._read(receive, body):
                await self._app(scope, _replay(bytes(body), receive), counted_send)
        except Failure as failure:
            await failure.response()(scope, receive, counted_send)
        finally:
            self._num_bytes -= len(body)
            route = scope.get('route')
            self._requests.labels(getattr(route, 'path', 'none'), str(status)).inc()
            self._seconds.labels(getattr(route, 'path', 'none')).observe(time.monotonic() - start)

    def _check(self, scope: Scope) -> None:
        """Raise Failure if the header alone shows that a request is refused."""
        headers = dict(scope['headers'])
        host = headers.get(b'host')  # only HTTP/1.0 may leave it out, which no browser does
        if host is not None and not self._limits.hosts.accept(host.decode('latin-1')):
            shown = host.decode('latin-1')[:60]
            advice = 'if it is a name of this server, start it with --allowed_host and the name'
            raise Failure(403, f'The Host header {shown!r} names another server; {advice}.', 'unknown_host')
        if self._limits.token is not None and scope['path'].startswith(('/v1/', '/metrics')):
            scheme, _, given = headers.get(b'authorization', b'').partition(b' ')
            if scheme.lower() != b'bearer' or not hmac.compare_digest(given.strip(), self._limits.token.encode()):
                message = 'The API key is missing or wrong: send Authorization: Bearer ...'
                raise Failure(401, message, 'invalid_api_key', WWW_Authenticate='Bearer')
        length = headers.get(b'content-length', b'0')
        if length.isdigit() and int(length[:20]) > self._limits.body_bytes:
            raise self._too_large()

    def _too_large(self) -> Failure:
        return Failure(413, f'The body is larger than {self._limits.body_bytes:,} bytes.', 'body_too_large')

    async def _read(self, receive: Receive, body: bytearray) -> bool:
        """Add the whole body to `body`; return False if the client disconnected."""
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message['type'] == 'http.disconnect':
                        return False
                    part = message.get('body', b'')
                    body += part
                    self._num_bytes += len(part)
                    if len(body) > self._limits.body_bytes:
                        raise self._too_large()
                    if self._num_bytes > _BODIES * self._limits.body_bytes:
                        raise Failure(429, 'Too many large requests; retry later.', 'busy', Retry_After='1')
                    if not message.get('more_body'):
                        return True
        except TimeoutError:
            raise Failure(408, f'The body did not arrive within {self._limits.body_seconds:g} s.') from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body once, and then what the client sends."""
    pending: list[Message] = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again
