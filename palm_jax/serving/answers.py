"""From pieces of text and what heads say to the answers of the protocol, whole or as events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi.responses import StreamingResponse

from palm_jax.inference.engine import Delta, Token
from palm_jax.serving import protocol
from palm_jax.serving.texts import Texts, failure_of


def streamed(errors: dict[int, Any]) -> dict[int | str, Any]:
    """What the description says of an answer that may come as events, with the errors that may come instead."""
    events = {'text/event-stream': {'schema': {'type': 'string'}}}
    return {200: {'content': events, 'description': 'The answer, or with stream = true its pieces'}, **errors}


def stream(texts: Texts, chunk: Callable[[int, Delta], Any], last: Callable[[], Any | None]) -> StreamingResponse:
    """Server-sent events; a client that leaves cancels the texts.

    Args:
      texts: that are being written.
      chunk: the event of a piece, by the number of its text.
      last: the event behind all pieces, or None.
    """

    async def events() -> AsyncIterator[str]:
        try:
            async for index, piece in texts.pieces():
                if failure := failure_of(piece):
                    yield _event(failure.body)
                    return
                yield _event(chunk(index, piece))
            if (end := last()) is not None:
                yield _event(end)
            yield 'data: [DONE]\n\n'
        finally:
            texts.cancel()

    return StreamingResponse(events(), media_type='text/event-stream', headers={'Cache-Control': 'no-store'})


def _event(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False) if isinstance(content, dict) else content.model_dump_json()
    return f'data: {text}\n\n'


def reason(finish_reason: str | None) -> Any:
    """`finish_reason` of a piece."""
    return finish_reason if finish_reason in ('stop', 'length') else None


def wants_usage(body: protocol.GenerationRequest) -> bool:
    """Whether a stream ends with the number of tokens."""
    return body.stream_options is not None and body.stream_options.include_usage


def classified(index: int, said: float | dict[str, float], several: bool) -> protocol.Classified:
    """What a head said of one text; `several` labels may hold together."""
    if isinstance(said, float):
        return protocol.Classified(index=index, label=None, labels=[], probabilities={}, number=said)
    first = next(iter(said))
    labels = [label for label, p in said.items() if p > 0.5] if several else [first]
    return protocol.Classified(index=index, label=first, labels=labels, probabilities=said)


def text_logprobs(tokens: Sequence[Token], decode, most: int, offset: int) -> protocol.TextLogprobs:
    """Of a completion, whose text begins `offset` characters behind its start."""
    names = [decode([t.id]) for t in tokens]
    offsets = [offset + sum(map(len, names[:i])) for i in range(len(names))]
    top = [{decode([i]): p for i, p in t.top_logprobs} for t in tokens] if most else None
    return protocol.TextLogprobs(
        tokens=names, token_logprobs=[t.logprob for t in tokens], top_logprobs=top, text_offset=offsets
    )


def chat_logprobs(tokens: Sequence[Token], decode) -> protocol.ChatLogprobs:
    """Of a chat."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        text = decode([token])
        return {'token': text, 'logprob': logprob, 'bytes': list(text.encode())}

    return protocol.ChatLogprobs(
        content=[
            protocol.TokenLogprob(
                **one(t.id, t.logprob), top_logprobs=[protocol.TopLogprob(**one(*pair)) for pair in t.top_logprobs]
            )
            for t in tokens
        ]
    )
