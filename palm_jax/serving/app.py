"""The HTTP server: OpenAI's completions and chats, labels and tags of heads, a page to chat on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import Any

import prometheus_client
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from palm_jax import __version__
from palm_jax.errors import UserError, closest
from palm_jax.inference.engine import Busy, Engine, Piece, Token
from palm_jax.inference.engine import Request as Writing
from palm_jax.inference.generate import Sampler, next_power_of_two
from palm_jax.serving import protocol
from palm_jax.serving.limits import Failure, Gate, Limits
from palm_jax.serving.models import Served

_ERRORS = {
    status: {'model': protocol.ErrorBody, 'description': description}
    for status, description in {
        400: 'What was asked is wrong; the message says where',
        401: 'The key is missing or wrong',
        404: 'There is no such model',
        408: 'The body came too slowly',
        413: 'The body is too large',
        429: 'Too many requests wait; Retry-After says when to come again',
        500: 'The server failed',
        503: 'The server is about to stop',
        504: 'The answer took too long',
    }.items()
}


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
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._requests: list[Writing] = []
        self.num_read, self.num_written = 0, 0

    def submit(self, prompts: Sequence[Sequence[int]], n: int, sampler: Sampler, num_logprobs: int) -> None:
        """Asks for n texts behind each prompt.

        Raises:
          Failure: no room.
        """
        loop, deadline = asyncio.get_running_loop(), time.monotonic() + self._limits.seconds

        def hand_out_of(index: int):
            def hand_out(piece: Piece) -> None:
                with contextlib.suppress(RuntimeError):  # the loop may have ended
                    loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))

            return hand_out

        for number, prompt in enumerate(prompts):
            for sample in range(n):
                hand_out = hand_out_of(number * n + sample)
                self._requests.append(Writing(prompt, sampler, hand_out, sample, num_logprobs, deadline))
        self.num_read = sum(map(len, prompts))
        self._counters.read.labels(self._served.name).inc(self.num_read)
        try:
            self._engine.submit(self._served.name, *self._requests)
        except Busy:
            raise Failure(429, 'Too many requests wait. Come again soon.', 'busy', Retry_After='1') from None
        except UserError as error:
            raise Failure(400, str(error), 'context_length_exceeded') from None

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """(number of the text, piece) as they come, until all have ended."""
        start, open_texts = time.monotonic(), len(self._requests)
        while open_texts:
            index, piece = await self._pieces.get()
            if not self.num_written and piece.tokens:
                self._counters.first.labels(self._served.name).observe(time.monotonic() - start)
            self.num_written += len(piece.tokens)
            self._counters.written.labels(self._served.name).inc(len(piece.tokens))
            open_texts -= piece.ending is not None
            yield index, piece

    async def whole(self, request: Request) -> list[Piece]:
        """All texts once they have ended; a client that leaves cancels them."""
        found = [Piece('', ())] * len(self._requests)

        async def collect() -> None:
            async for index, piece in self.pieces():
                had = found[index]
                found[index] = Piece(had.text + piece.text, had.tokens + piece.tokens, piece.ending)

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
            if failure := _failure(piece):
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


def create_app(served: dict[str, Served], engine: Engine, limits: Limits = Limits()) -> FastAPI:
    """The ASGI application.

    Args:
      served: models by name; those that write are in the engine, which is started and stopped here.
      engine: writes.
      limits: what a client may ask for.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await run_in_threadpool(engine.stop)

    app = FastAPI(
        title='palm_jax', version=__version__, description=__doc__, lifespan=lifespan, redoc_url=None,
        responses={400: _ERRORS[400], 401: _ERRORS[401], 408: _ERRORS[408], 413: _ERRORS[413], 500: _ERRORS[500]},
    )  # fmt: skip
    counters = Counters(engine)
    app.add_middleware(Gate, limits=limits, requests=counters.requests, seconds=counters.seconds)
    _handle_errors(app)
    heads = asyncio.Semaphore(1)  # one at a time, beside the engine
    writing_errors = {status: _ERRORS[status] for status in (404, 429, 503, 504)}

    def find(name: str, *, writes: bool, kind: str | None = None) -> Served:
        right = [n for n, one in served.items() if one.writes == writes and kind in (None, one.kind)]
        if name in right:
            return served[name]
        what = f'is for {served[name].kind}' if name in served else 'does not exist'
        known = f'Known here: {", ".join(right)}.' if right else 'No model that is served can do this.'
        raise Failure(404, f'The model {name!r} {what}.{closest(name, right)} {known}', 'model_not_found', 'model')

    def begin(body: protocol.Writing, one: Served, prompts, stop, max_tokens: int | None, num_logprobs: int) -> Texts:
        if engine.failure:
            raise Failure(500, 'The engine has failed; the log of the server says why.')
        most = min(limits.max_tokens, one.model.data.length)
        sampler = Sampler(
            max_tokens=min(max_tokens or most, most),
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            stop=(*body.stops, *stop),
            seed=random.getrandbits(32) if body.seed is None else body.seed,
        )
        texts = Texts(engine, one, counters, limits)
        texts.submit(prompts, body.n, sampler, num_logprobs)
        return texts

    @app.get('/v1/models', tags=['models'])
    async def models() -> protocol.Models:
        """All models."""
        return protocol.Models(data=[_model(one) for one in served.values()])

    @app.get('/v1/models/{name}', tags=['models'], responses={404: _ERRORS[404]})
    async def model(name: str) -> protocol.Model:
        """One model."""
        if name not in served:
            raise Failure(404, f'The model {name!r} does not exist.{closest(name, served)}', 'model_not_found')
        return _model(served[name])

    @app.post('/v1/completions', tags=['write'], responses=_streamed(writing_errors))
    async def completions(body: protocol.CompletionRequest, request: Request) -> protocol.Completion:
        """Continues prompts."""
        one = find(body.model, writes=True)
        prompts = [one.prompt(prompt) for prompt in _prompts(body.prompt)]
        texts = begin(body, one, prompts, (), body.max_tokens, body.logprobs or 0)
        name, created, decode = f'cmpl-{uuid.uuid4().hex}', int(time.time()), one.model.data.vocabulary.decode

        def answer(choices, usage=None) -> protocol.Completion:
            return protocol.Completion(id=name, created=created, model=one.name, choices=choices, usage=usage)

        def choice(index: int, piece: Piece, offset: int = 0) -> protocol.CompletionChoice:
            told = None if body.logprobs is None else _text_logprobs(piece.tokens, decode, body.logprobs, offset)
            return protocol.CompletionChoice(
                index=index, text=piece.text, logprobs=told, finish_reason=_reason(piece.ending)
            )

        if not body.stream:
            return answer([choice(i, piece) for i, piece in enumerate(await texts.whole(request))], texts.usage)

        lengths: dict[int, int] = {}

        def chunk(index: int, piece: Piece) -> Any:
            offset = lengths.get(index, 0)
            lengths[index] = offset + len(piece.text)
            return answer([choice(index, piece, offset)])

        return _stream(texts, chunk, lambda: answer([], texts.usage) if _wants_usage(body) else None)

    @app.post('/v1/chat/completions', tags=['write'], responses=_streamed(writing_errors))
    async def chat(body: protocol.ChatRequest, request: Request) -> protocol.ChatCompletion:
        """Answers the last message."""
        one = find(body.model, writes=True)
        prompt, stop = one.chat_prompt([{'role': m.role, 'content': m.content} for m in body.messages])
        num_logprobs = body.top_logprobs or 0
        if num_logprobs and not body.logprobs:
            raise Failure(400, 'top_logprobs needs logprobs = true.', param='top_logprobs')
        texts = begin(body, one, [prompt], stop, body.max_completion_tokens or body.max_tokens, num_logprobs)
        name, created, decode = f'chatcmpl-{uuid.uuid4().hex}', int(time.time()), one.model.data.vocabulary.decode

        def told(piece: Piece) -> protocol.ChatLogprobs | None:
            return _chat_logprobs(piece.tokens, decode) if body.logprobs else None

        if not body.stream:
            choices = [
                protocol.ChatChoice(
                    index=index,
                    message=protocol.ChatMessage(content=piece.text.lstrip() if stop else piece.text),
                    logprobs=told(piece),
                    finish_reason=_reason(piece.ending),
                )
                for index, piece in enumerate(await texts.whole(request))
            ]
            return protocol.ChatCompletion(id=name, created=created, model=one.name, choices=choices, usage=texts.usage)

        def answer(choices, usage=None) -> dict[str, Any]:
            of_all = {'id': name, 'object': 'chat.completion.chunk', 'created': created, 'model': one.name}
            return of_all | {'choices': choices} | ({} if usage is None else {'usage': usage.model_dump()})

        begun: set[int] = set()

        def chunk(index: int, piece: Piece) -> Any:
            is_first, text = index not in begun, piece.text
            if is_first and stop:
                text = text.lstrip()
            if text:
                begun.add(index)
            delta = ({'role': 'assistant'} if is_first else {}) | {'content': text}
            logprobs = told(piece)
            return answer(
                [
                    {
                        'index': index,
                        'delta': delta,
                        'logprobs': None if logprobs is None else logprobs.model_dump(),
                        'finish_reason': _reason(piece.ending),
                    }
                ]
            )

        return _stream(texts, chunk, lambda: answer([], texts.usage) if _wants_usage(body) else None)

    @app.post('/v1/classify', tags=['heads'], responses={404: _ERRORS[404]})
    async def classify(body: protocol.HeadRequest) -> protocol.Classification:
        """Labels texts, or gives each a number."""
        one = find(body.model, writes=False, kind='classify')
        texts, seconds = _inputs(body, one)
        async with heads:
            said = await run_in_threadpool(one.model.predict, texts, seconds, _batch_size(texts))
        several = one.model.data.table.kind not in ('class', 'number')
        return protocol.Classification(
            model=one.name, data=[_classified(i, answer, several) for i, answer in enumerate(said)]
        )

    @app.post('/v1/tag', tags=['heads'], responses={404: _ERRORS[404]})
    async def tag(body: protocol.HeadRequest) -> protocol.Tagging:
        """Finds entities, with the places of their characters."""
        one = find(body.model, writes=False, kind='tag')
        texts, _ = _inputs(body, one)
        async with heads:
            said = await run_in_threadpool(one.model.find, texts, _batch_size(texts))
        rows = [protocol.Tagged(index=i, entities=entities) for i, entities in enumerate(said)]
        return protocol.Tagging(model=one.name, data=rows)

    @app.get('/health', tags=['state'], responses={500: _ERRORS[500]})
    async def health() -> protocol.Status:
        """Whether the process works."""
        if engine.failure:
            raise Failure(500, 'The engine has failed.')
        return protocol.Status(status='ok')

    @app.get('/ready', tags=['state'], responses={503: _ERRORS[503]})
    async def ready() -> protocol.Status:
        """Whether it takes requests."""
        if engine.failure:
            raise Failure(503, 'The engine has failed.')
        return protocol.Status(status='ok', details={'waiting': engine.num_waiting, 'active': engine.num_active})

    @app.get('/metrics', tags=['state'], response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        content = prometheus_client.generate_latest(counters.registry)
        return Response(content, media_type='text/plain; version=0.0.4; charset=utf-8')

    page = (resources.files('palm_jax.serving') / 'page.html').read_text()

    @app.get('/', include_in_schema=False)
    async def chat_page() -> HTMLResponse:
        return HTMLResponse(page)

    _document_400_instead_of_422(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    """All errors in OpenAI's shape."""

    @app.exception_handler(Failure)
    async def failure(_: Request, error: Failure) -> JSONResponse:
        return error.response()

    @app.exception_handler(UserError)
    async def user_error(_: Request, error: UserError) -> JSONResponse:
        return Failure(400, str(error)).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first['loc'] == ('body',) and 'json' not in request.headers.get('content-type', ''):
            return Failure(400, 'Send JSON, with the header Content-Type: application/json.').response()
        place = '.'.join(str(part) for part in first['loc'] if part != 'body') or 'body'
        return Failure(400, f'{place}: {first["msg"]}', param=place).response()

    @app.exception_handler(HTTPException)
    async def of_the_framework(_: Request, error: HTTPException) -> JSONResponse:
        return Failure(error.status_code, str(error.detail), **(error.headers or {})).response()

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return Failure(500, f'The server failed: {type(error).__name__}.').response()


def _document_400_instead_of_422(app: FastAPI) -> None:
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        for path in document['paths'].values():
            for operation in path.values():
                operation['responses'].pop('422', None)
        for name in ('HTTPValidationError', 'ValidationError'):
            document['components']['schemas'].pop(name, None)
        return document

    app.openapi = openapi


def _streamed(errors: dict[int, Any]) -> dict[int | str, Any]:
    events = {'text/event-stream': {'schema': {'type': 'string'}}}
    return {200: {'content': events, 'description': 'The answer, or with stream = true its pieces'}, **errors}


def _stream(texts: Texts, chunk, last) -> StreamingResponse:
    """Server-sent events, a piece each; a client that leaves cancels the texts."""

    async def events() -> AsyncIterator[str]:
        try:
            async for index, piece in texts.pieces():
                if failure := _failure(piece):
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


def _failure(piece: Piece) -> Failure | None:
    """Of a text that ended otherwise than by itself."""
    return {
        'timeout': Failure(504, 'The answer took too long.', 'timeout'),
        'cancelled': Failure(503, 'The server is about to stop.'),
        'error': Failure(500, 'The engine has failed; the log of the server says why.'),
    }.get(piece.ending)


def _reason(ending: str | None) -> Any:
    return ending if ending in ('stop', 'length') else None


def _wants_usage(body: protocol.Writing) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


def _prompts(given: Any) -> list[Any]:
    return given if isinstance(given, list) and isinstance(given[0], str | list) else [given]


def _model(one: Served) -> protocol.Model:
    return protocol.Model(id=one.name, created=one.created, kind=one.kind)


def _inputs(body: protocol.HeadRequest, one: Served) -> tuple[list[str], list[str] | None]:
    texts, seconds = ([x] if isinstance(x, str) else x for x in (body.input, body.second_input))
    wants_pairs = getattr(getattr(one.model.data, 'table', None), 'second_text_column', None) is not None
    if wants_pairs != (seconds is not None) or (seconds is not None and len(seconds) != len(texts)):
        wanted = 'pairs: a second_input for every input' if wants_pairs else 'single texts: no second_input'
        raise Failure(400, f'The model {one.name!r} reads {wanted}.', param='second_input')
    return texts, seconds


def _batch_size(texts: Sequence[str]) -> int:
    return min(32, next_power_of_two(len(texts)))


def _classified(index: int, said: float | dict[str, float], several: bool) -> protocol.Classified:
    if isinstance(said, float):
        return protocol.Classified(index=index, label=None, labels=[], probabilities={}, number=said)
    first = next(iter(said))
    labels = [label for label, p in said.items() if p > 0.5] if several else [first]
    return protocol.Classified(index=index, label=first, labels=labels, probabilities=said)


def _text_logprobs(tokens: Sequence[Token], decode, most: int, offset: int) -> protocol.TextLogprobs:
    names = [decode([t.id]) for t in tokens]
    offsets = [offset + sum(map(len, names[:i])) for i in range(len(names))]
    top = [{decode([i]): p for i, p in t.likeliest} for t in tokens] if most else None
    return protocol.TextLogprobs(
        tokens=names, token_logprobs=[t.logprob for t in tokens], top_logprobs=top, text_offset=offsets
    )


def _chat_logprobs(tokens: Sequence[Token], decode) -> protocol.ChatLogprobs:
    def one(token: int, logprob: float) -> dict[str, Any]:
        text = decode([token])
        return {'token': text, 'logprob': logprob, 'bytes': list(text.encode())}

    return protocol.ChatLogprobs(
        content=[
            protocol.TokenLogprob(
                **one(t.id, t.logprob), top_logprobs=[protocol.TopLogprob(**one(*pair)) for pair in t.likeliest]
            )
            for t in tokens
        ]
    )
