"""Checks before every request: the API key, and the size and the arrival time of the body."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import time

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from palm_jax.serving.errors import Failure


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on requests.

    Attributes:
      body_bytes: maximum size of a request's body.
      body_seconds: maximum time for the body to arrive.
      max_tokens: maximum number of tokens of a completion.
      seconds: maximum time for a request; the text is ended after it.
      token: API key that must be sent as `Authorization: Bearer ...`; None requires none.
    """

    body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    max_tokens: int = 4096
    seconds: float = 300.0
    token: str | None = None


class Gate:
    """ASGI middleware that checks requests and counts them."""

    def __init__(self, app: ASGIApp, limits: Limits, requests: Counter, seconds: Histogram):
        self._app, self._limits, self._requests, self._seconds = app, limits, requests, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 499  # if the client disconnects before the response

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            await send(message)

        try:
            if failure := self._refusal(scope):
                await failure.response()(scope, receive, counted_send)
                return
            try:
                replayed = await asyncio.wait_for(self._body(receive), self._limits.body_seconds)
            except TimeoutError:
                failure = Failure(408, f'The body did not arrive within {self._limits.body_seconds:g} s.')
                await failure.response()(scope, receive, counted_send)
                return
            except Failure as failure:
                await failure.response()(scope, receive, counted_send)
                return
            if replayed is not None:
                await self._app(scope, _replay(replayed, receive), counted_send)
        finally:
            route = scope.get('route')
            self._requests.labels(getattr(route, 'path', 'none'), str(status)).inc()
            self._seconds.labels(getattr(route, 'path', 'none')).observe(time.monotonic() - start)

    def _refusal(self, scope: Scope) -> Failure | None:
        headers = dict(scope['headers'])
        if self._limits.token is not None and scope['path'].startswith(('/v1/', '/metrics')):
            given = headers.get(b'authorization', b'').removeprefix(b'Bearer ')
            if not hmac.compare_digest(given, self._limits.token.encode()):
                return Failure(
                    401, 'The API key is missing or wrong: send Authorization: Bearer ...', 'invalid_api_key'
                )
        length = headers.get(b'content-length', b'0')
        if length.isdigit() and int(length) > self._limits.body_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> Failure:
        return Failure(413, f'The body is larger than {self._limits.body_bytes:,} bytes.', 'body_too_large')

    async def _body(self, receive: Receive) -> bytes | None:
        """Return the whole body, or None if the client disconnected."""
        parts, size = [], 0
        while True:
            message = await receive()
            if message['type'] == 'http.disconnect':
                return None
            parts.append(message.get('body', b''))
            size += len(parts[-1])
            if size > self._limits.body_bytes:
                raise self._too_large()
            if not message.get('more_body'):
                return b''.join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the body once, and then what the client sends."""
    pending: list[Message] = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again
