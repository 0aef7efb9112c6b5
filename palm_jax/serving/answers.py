"""Responses of the protocol from generated text, whole or as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from palm_jax.inference.engine import Delta
from palm_jax.serving import response_bodies, tokens
from palm_jax.serving.errors import Failure
from palm_jax.serving.models import ServedModel
from palm_jax.serving.texts import Texts, failure_of


def streamed(errors: dict[int | str, Any]) -> dict[int | str, Any]:
    """Return the description of a response that may be a stream, with those of its errors, for OpenAPI."""
    events = {'text/event-stream': {'schema': {'type': 'string'}}}
    return {200: {'content': events, 'description': 'The response, or its events if stream = true'}, **errors}


def stream(texts: Texts, chunk: Callable[[int, Delta], Any], last: Callable[[], Any | None]) -> StreamingResponse:
    """Return server-sent events; a client that disconnects cancels the texts.

    Args:
      texts: texts that are being generated.
      chunk: makes an event of a delta and the number of its text.
      last: makes the event after all deltas, or None.
    """

    async def events() -> AsyncIterator[str]:
        try:
            async for index, delta in texts.deltas():
                if failure := failure_of(delta):
                    raise failure
                yield _event(chunk(index, delta))
        except Failure as failure:  # the status has been sent
            yield _event(failure.body)
            return
        if (end := await run_in_threadpool(last)) is not None:  # which may write to a database
            yield _event(end)
        yield 'data: [DONE]\n\n'

    return _Events(events(), texts)


class _Events(StreamingResponse):
    """Server-sent events; the texts are cancelled however the response ends, even if it never began."""

    def __init__(self, events: AsyncIterator[str], texts: Texts):
        super().__init__(events, media_type='text/event-stream', headers={'Cache-Control': 'no-store'})
        self._texts = texts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._texts.cancel()


def _event(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False) if isinstance(content, dict) else content.model_dump_json()
    return f'data: {text}\n\n'


def _fields(identifier: str, served: ServedModel) -> dict[str, Any]:
    """Return the fields that the response and all events of a request share."""
    return {'id': identifier, 'created': int(time.time()), 'model': served.name}


def _finish_reason(delta: Delta) -> response_bodies.FinishReason | None:
    return None if delta.finish_reason is None else _reason_of_end(delta)


def _reason_of_end(delta: Delta) -> response_bodies.FinishReason:
    """Return why a text has ended that was not ended by the server; see `texts.failure_of`."""
    if delta.finish_reason in ('stop', 'length', 'content_filter'):
        return delta.finish_reason
    raise ValueError(f'{delta.finish_reason} is not a reason of the protocol')


class CompletionAnswer:
    """Responses and events of one request of /v1/completions.

    Args:
      served: the model.
      num_logprobs: alternatives per token to return with their log-probabilities; None returns none.
    """

    def __init__(self, served: ServedModel, num_logprobs: int | None):
        self._vocabulary, self._num_logprobs = served.model.data.vocabulary, num_logprobs
        self._fields = _fields(f'cmpl-{uuid.uuid4().hex}', served)
        self._positions: dict[int, tokens.Positions] = {}

    @property
    def id(self) -> str:
        """Id of the response."""
        return self._fields['id']

    def whole(self, texts: Sequence[Delta], usage: response_bodies.Usage) -> response_bodies.Completion:
        """Return the response."""
        choices = [self._choice(index, delta) for index, delta in enumerate(texts)]
        return response_bodies.Completion(**self._fields, choices=choices, usage=usage)

    def chunk(self, index: int, delta: Delta) -> response_bodies.Completion:
        """Return the event of a delta."""
        return response_bodies.Completion(**self._fields, choices=[self._choice(index, delta)])

    def last(self, usage: response_bodies.Usage) -> response_bodies.Completion:
        """Return the event with the number of tokens."""
        return response_bodies.Completion(**self._fields, choices=[], usage=usage)

    def _choice(self, index: int, delta: Delta) -> response_bodies.CompletionChoice:
        logprobs = None
        if self._num_logprobs is not None:
            positions = self._positions.setdefault(index, tokens.Positions(self._vocabulary))
            logprobs = tokens.text_logprobs(delta.tokens, self._vocabulary, self._num_logprobs, positions)
        return response_bodies.CompletionChoice(
            index=index, text=delta.text, logprobs=logprobs, finish_reason=_finish_reason(delta)
        )


class ChatAnswer:
    """Responses and events of one request of /v1/chat/completions.

    Args:
      served: the model.
      with_logprobs: whether to return the log-probabilities of tokens.
      strips: whether to strip whitespace at the beginning of the answer.
    """

    def __init__(self, served: ServedModel, with_logprobs: bool, strips: bool):
        self._vocabulary, self._with_logprobs, self._strips = served.model.data.vocabulary, with_logprobs, strips
        self._fields = _fields(f'chatcmpl-{uuid.uuid4().hex}', served)
        self._announced: set[int] = set()  # answers whose role has been sent
        self._begun: set[int] = set()  # answers with a text that is not empty

    @property
    def id(self) -> str:
        """Id of the response."""
        return self._fields['id']

    def whole(self, texts: Sequence[Delta], usage: response_bodies.Usage) -> response_bodies.ChatCompletion:
        """Return the response."""
        choices = [
            response_bodies.ChatChoice(
                index=index,
                message=response_bodies.ChatMessage(content=delta.text.lstrip() if self._strips else delta.text),
                logprobs=self._logprobs(delta),
                finish_reason=_reason_of_end(delta),
            )
            for index, delta in enumerate(texts)
        ]
        return response_bodies.ChatCompletion(**self._fields, choices=choices, usage=usage)

    def chunk(self, index: int, delta: Delta) -> dict[str, Any]:
        """Return the event of a delta."""
        is_first, text = index not in self._announced, delta.text
        self._announced.add(index)
        if self._strips and index not in self._begun:
            text = text.lstrip()
        if text:
            self._begun.add(index)
        logprobs = self._logprobs(delta)
        choice = {
            'index': index,
            'delta': ({'role': 'assistant'} if is_first else {}) | {'content': text},
            'logprobs': None if logprobs is None else logprobs.model_dump(),
            'finish_reason': delta.finish_reason,
        }
        return self._event([choice])

    def last(self, usage: response_bodies.Usage) -> dict[str, Any]:
        """Return the event with the number of tokens."""
        return self._event([]) | {'usage': usage.model_dump()}

    def _event(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._fields | {'object': 'chat.completion.chunk', 'choices': choices}

    def _logprobs(self, delta: Delta) -> response_bodies.ChatLogprobs | None:
        return tokens.chat_logprobs(delta.tokens, self._vocabulary) if self._with_logprobs else None
