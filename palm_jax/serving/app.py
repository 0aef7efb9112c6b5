"""The HTTP server: OpenAI's completions and chats, labels and tags of heads, a page to chat on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import Any

import prometheus_client
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from palm_jax import __version__
from palm_jax.errors import closest
from palm_jax.inference.engine import Delta, Engine
from palm_jax.inference.generate import Sampler, next_power_of_two
from palm_jax.serving import answers, errors, protocol
from palm_jax.serving.errors import Failure
from palm_jax.serving.limits import Gate, Limits
from palm_jax.serving.models import Served
from palm_jax.serving.texts import Counters, Texts


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
        responses={status: errors.DOCUMENTED[status] for status in (400, 401, 408, 413, 500)},
    )  # fmt: skip
    counters = Counters(engine)
    app.add_middleware(Gate, limits=limits, requests=counters.requests, seconds=counters.seconds)
    errors.handle(app)
    heads = asyncio.Semaphore(1)  # one at a time, beside the engine
    writing_errors = {status: errors.DOCUMENTED[status] for status in (404, 429, 503, 504)}

    def find(name: str, *, writes: bool, kind: str | None = None) -> Served:
        right = [n for n, one in served.items() if one.generates == writes and kind in (None, one.kind)]
        if name in right:
            return served[name]
        what = f'is for {served[name].kind}' if name in served else 'does not exist'
        known = f'Known here: {", ".join(right)}.' if right else 'No model that is served can do this.'
        raise Failure(404, f'The model {name!r} {what}.{closest(name, right)} {known}', 'model_not_found', 'model')

    def begin(
        body: protocol.GenerationRequest, one: Served, prompts, stop, max_tokens: int | None, num_logprobs: int
    ) -> Texts:
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

    @app.get('/v1/models/{name}', tags=['models'], responses={404: errors.DOCUMENTED[404]})
    async def model(name: str) -> protocol.Model:
        """One model."""
        if name not in served:
            raise Failure(404, f'The model {name!r} does not exist.{closest(name, served)}', 'model_not_found')
        return _model(served[name])

    @app.post('/v1/completions', tags=['write'], responses=answers.streamed(writing_errors))
    async def completions(body: protocol.CompletionRequest, request: Request) -> protocol.Completion:
        """Continues prompts."""
        one = find(body.model, writes=True)
        prompts = [one.prompt(prompt) for prompt in _prompts(body.prompt)]
        texts = begin(body, one, prompts, (), body.max_tokens, body.logprobs or 0)
        name, created, decode = f'cmpl-{uuid.uuid4().hex}', int(time.time()), one.model.data.vocabulary.decode

        def answer(choices, usage=None) -> protocol.Completion:
            return protocol.Completion(id=name, created=created, model=one.name, choices=choices, usage=usage)

        def choice(index: int, piece: Delta, offset: int = 0) -> protocol.CompletionChoice:
            told = None if body.logprobs is None else answers.text_logprobs(piece.tokens, decode, body.logprobs, offset)
            return protocol.CompletionChoice(
                index=index, text=piece.text, logprobs=told, finish_reason=answers.reason(piece.finish_reason)
            )

        if not body.stream:
            return answer([choice(i, piece) for i, piece in enumerate(await texts.whole(request))], texts.usage)

        lengths: dict[int, int] = {}

        def chunk(index: int, piece: Delta) -> Any:
            offset = lengths.get(index, 0)
            lengths[index] = offset + len(piece.text)
            return answer([choice(index, piece, offset)])

        return answers.stream(texts, chunk, lambda: answer([], texts.usage) if answers.wants_usage(body) else None)

    @app.post('/v1/chat/completions', tags=['write'], responses=answers.streamed(writing_errors))
    async def chat(body: protocol.ChatRequest, request: Request) -> protocol.ChatCompletion:
        """Answers the last message."""
        one = find(body.model, writes=True)
        prompt, stop = one.chat_prompt([{'role': m.role, 'content': m.content} for m in body.messages])
        num_logprobs = body.top_logprobs or 0
        if num_logprobs and not body.logprobs:
            raise Failure(400, 'top_logprobs needs logprobs = true.', param='top_logprobs')
        texts = begin(body, one, [prompt], stop, body.max_completion_tokens or body.max_tokens, num_logprobs)
        name, created, decode = f'chatcmpl-{uuid.uuid4().hex}', int(time.time()), one.model.data.vocabulary.decode

        def told(piece: Delta) -> protocol.ChatLogprobs | None:
            return answers.chat_logprobs(piece.tokens, decode) if body.logprobs else None

        if not body.stream:
            choices = [
                protocol.ChatChoice(
                    index=index,
                    message=protocol.ChatMessage(content=piece.text.lstrip() if stop else piece.text),
                    logprobs=told(piece),
                    finish_reason=answers.reason(piece.finish_reason),
                )
                for index, piece in enumerate(await texts.whole(request))
            ]
            return protocol.ChatCompletion(id=name, created=created, model=one.name, choices=choices, usage=texts.usage)

        def answer(choices, usage=None) -> dict[str, Any]:
            of_all = {'id': name, 'object': 'chat.completion.chunk', 'created': created, 'model': one.name}
            return of_all | {'choices': choices} | ({} if usage is None else {'usage': usage.model_dump()})

        begun: set[int] = set()

        def chunk(index: int, piece: Delta) -> Any:
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
                        'finish_reason': answers.reason(piece.finish_reason),
                    }
                ]
            )

        return answers.stream(texts, chunk, lambda: answer([], texts.usage) if answers.wants_usage(body) else None)

    @app.post('/v1/classify', tags=['heads'], responses={404: errors.DOCUMENTED[404]})
    async def classify(body: protocol.HeadRequest) -> protocol.Classification:
        """Labels texts, or gives each a number."""
        one = find(body.model, writes=False, kind='classify')
        texts, seconds = _inputs(body, one)
        async with heads:
            said = await run_in_threadpool(one.model.predict, texts, seconds, _batch_size(texts))
        several = one.model.data.table.kind not in ('class', 'number')
        return protocol.Classification(
            model=one.name, data=[answers.classified(i, answer, several) for i, answer in enumerate(said)]
        )

    @app.post('/v1/tag', tags=['heads'], responses={404: errors.DOCUMENTED[404]})
    async def tag(body: protocol.HeadRequest) -> protocol.Tagging:
        """Finds entities, with the places of their characters."""
        one = find(body.model, writes=False, kind='tag')
        texts, _ = _inputs(body, one)
        async with heads:
            said = await run_in_threadpool(one.model.find, texts, _batch_size(texts))
        rows = [protocol.Tagged(index=i, entities=entities) for i, entities in enumerate(said)]
        return protocol.Tagging(model=one.name, data=rows)

    @app.get('/health', tags=['state'], responses={500: errors.DOCUMENTED[500]})
    async def health() -> protocol.Status:
        """Whether the process works."""
        if engine.failure:
            raise Failure(500, 'The engine has failed.')
        return protocol.Status(status='ok')

    @app.get('/ready', tags=['state'], responses={503: errors.DOCUMENTED[503]})
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

    return app


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
