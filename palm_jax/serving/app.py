"""The HTTP server: OpenAI's completions, chats and embeddings, labels and tags of heads, and a page to chat on."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import resources
from typing import Any

import anyio
import anyio.to_thread
import prometheus_client
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from palm_jax import __version__
from palm_jax.errors import UserError
from palm_jax.inference.engine import Engine
from palm_jax.inference.generate import Sampler, next_power_of_two
from palm_jax.monitoring.content_filter import ContentFilter
from palm_jax.monitoring.request_log import RequestLog
from palm_jax.predictors.generator import Generator
from palm_jax.serving import answers, embeddings, errors, feedback, request_bodies, response_bodies
from palm_jax.serving.errors import Failure
from palm_jax.serving.feedback import Keeper
from palm_jax.serving.forward_passes import ForwardPasses
from palm_jax.serving.limits import Gate, Limits
from palm_jax.serving.models import ServedModel
from palm_jax.serving.routing import Models
from palm_jax.serving.screening import Screening
from palm_jax.serving.switching import Switcher
from palm_jax.serving.texts import Counters, Texts

_MAX_BATCH = 32
_LONG = 50_000  # characters of prompts that are encoded one request at a time
_PAGE_HEADERS = {  # the page loads nothing, talks to this server alone, and is shown in no other page
    'Content-Security-Policy': "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
}


def create_app(
    models: Models,
    engine: Engine,
    limits: Limits = Limits(),
    log: RequestLog | None = None,
    switcher: Switcher | None = None,
    rules: ContentFilter = ContentFilter(),
) -> FastAPI:
    """Return the ASGI application.

    Args:
      models: served models; those that generate text have been added to the engine.
      engine: generates text; it is started and stopped with the application.
      limits: limits on requests.
      log: keeps requests and answers, and takes feedback to them; None keeps nothing.
      switcher: replaces models while the server runs; None replaces none.
      rules: rules about what is asked and written.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        async with anyio.create_task_group() as tasks:
            if switcher is not None:
                tasks.start_soon(switcher.run)
            yield
            tasks.cancel_scope.cancel()
        await run_in_threadpool(engine.stop)

    app = FastAPI(
        title='palm_jax', version=__version__, description=__doc__, lifespan=lifespan, redoc_url=None,
        responses={status: errors.DOCUMENTED[status] for status in (400, 401, 403, 408, 413, 429, 500)},
    )  # fmt: skip
    counters = Counters(engine)
    app.add_middleware(Gate, limits=limits, requests=counters.requests, seconds=counters.seconds)
    errors.handle(app)
    keeper, screening = Keeper(log), Screening(rules)
    app.include_router(_routes_of_models(models))
    app.include_router(_routes_of_text(models, engine, limits, counters, keeper, screening))
    passes = ForwardPasses(engine, limits)
    app.include_router(_routes_of_heads(models, passes, keeper, screening))
    app.include_router(embeddings.routes(models.find, passes, screening, _MAX_BATCH))
    app.include_router(_routes_of_state(engine, counters))
    app.include_router(feedback.refusing_routes() if log is None else feedback.routes(log, models.served))
    page = (resources.files('palm_jax.serving') / 'page.html').read_text(encoding='utf-8')

    @app.get('/', include_in_schema=False)
    async def chat_page() -> HTMLResponse:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    return app


class _Encoding:
    """Encodes prompts in threads, so that the loop goes on; long ones wait for each other, and short ones pass them."""

    def __init__(self) -> None:
        self._short, self._long = anyio.CapacityLimiter(4), anyio.CapacityLimiter(1)

    async def __call__(self, num_characters: int, encode: Callable[..., Any], *arguments: Any) -> Any:
        """Return `encode(*arguments)`, which reads texts of this many characters or ids."""
        limiter = self._long if num_characters > _LONG else self._short
        return await anyio.to_thread.run_sync(encode, *arguments, limiter=limiter)


def _routes_of_models(models: Models) -> APIRouter:
    router = APIRouter(tags=['models'])

    def describe(model: ServedModel) -> response_bodies.Model:
        predictor = model.predictor
        return response_bodies.Model(
            id=model.name,
            created=model.created,
            kind=predictor.kind,
            endpoint=predictor.endpoint,
            reads_pairs=predictor.reads_pairs(model.model),
        )

    @router.get('/v1/models')
    async def all_models() -> response_bodies.Models:
        """List all models."""
        return response_bodies.Models(data=[describe(model) for model in models.served.values()])

    @router.get('/v1/models/{name:path}', responses={404: errors.DOCUMENTED[404]})
    async def one_model(name: str) -> response_bodies.Model:
        """Describe a model."""
        return describe(models.find(name))

    return router


def _routes_of_text(
    models: Models, engine: Engine, limits: Limits, counters: Counters, keeper: Keeper, screening: Screening
) -> APIRouter:
    router, encoding = APIRouter(tags=['generate']), _Encoding()
    responses = answers.streamed({status: errors.DOCUMENTED[status] for status in (404, 429, 503, 504)})

    def generating(body: request_bodies.GenerationRequest, prompts: Sequence[Any] = ()) -> ServedModel:
        found = models.find(body.model, lambda predictor: isinstance(predictor, Generator))
        names_ids = bool(body.logit_bias) or not all(isinstance(prompt, str) for prompt in prompts)
        return found if names_ids else models.answering(found, body.user)  # ids are those of the first vocabulary

    def submit(
        body: request_bodies.GenerationRequest,
        model: ServedModel,
        prompts: Sequence[Sequence[int]],
        stop: Sequence[str],
        max_tokens: int | None,
        num_logprobs: int,
    ) -> Texts:
        if engine.failure:
            raise Failure(500, "The engine has failed; see the server's log.")
        limit = min(limits.max_tokens, model.model.data.length)
        sampler = Sampler(
            max_tokens=min(max_tokens or limit, limit),
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=max(body.top_k, 0),
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            stop=(*body.stop, *stop),
            logit_bias=body.logit_bias,
            seed=random.getrandbits(32) if body.seed is None else body.seed,
        )
        texts = Texts(engine, model, counters, limits, screening)
        texts.submit(prompts, body.n, sampler, num_logprobs)
        return texts

    async def respond(
        body: request_bodies.GenerationRequest,
        model: ServedModel,
        texts: Texts,
        answer: Any,
        request: Request,
        inputs: Sequence[Any],
    ) -> Any:
        kept = answer.id, model, request.url.path, [given for given in inputs for _ in range(body.n)]
        if body.stream:
            last = lambda: answer.last(texts.usage) if body.wants_usage else None  # noqa: E731
            return answers.stream(texts, *keeper.of_stream(*kept, answer.chunk, last))
        written = await texts.whole(request)
        await keeper.keep_texts(*kept, [delta.text for delta in written])
        return answer.whole(written, texts.usage)

    @router.post('/v1/completions', responses=responses)
    async def completions(body: request_bodies.CompletionRequest, request: Request) -> response_bodies.Completion:
        """Complete prompts."""
        model = generating(body, given := body.prompts)
        await screening.check_inputs(model, '/v1/completions', given, 'prompt')
        prompts = await encoding(sum(map(len, given)), model.prompts, given)
        stop = model.generator.stop(model.model)
        texts = submit(body, model, prompts, stop, body.max_tokens, body.logprobs or 0)
        return await respond(body, model, texts, answers.CompletionAnswer(model, body.logprobs), request, given)

    @router.post('/v1/chat/completions', responses=responses)
    async def chat(body: request_bodies.ChatRequest, request: Request) -> response_bodies.ChatCompletion:
        """Answer the last message of a chat."""
        model = generating(body)
        messages = [{'role': message.role, 'content': message.content} for message in body.messages]
        await screening.check_inputs(model, '/v1/chat/completions', messages, 'messages')
        num_characters = sum(len(message['content']) for message in messages)
        prompt, stop = await encoding(num_characters, model.generator.chat_prompt, model.model, messages)
        if body.top_logprobs and not body.logprobs:
            raise Failure(400, 'top_logprobs needs logprobs = true.', param='top_logprobs')
        max_tokens = body.max_completion_tokens or body.max_tokens
        texts = submit(body, model, [prompt], stop, max_tokens, body.top_logprobs)
        answer = answers.ChatAnswer(model, body.logprobs, bool(stop))
        return await respond(body, model, texts, answer, request, [messages])

    return router


def _routes_of_heads(models: Models, passes: ForwardPasses, keeper: Keeper, screening: Screening) -> APIRouter:
    router = APIRouter(tags=['heads'], responses={status: errors.DOCUMENTED[status] for status in (404, 504)})

    async def predict(
        body: request_bodies.HeadRequest, endpoint: str, response: Response
    ) -> tuple[str, list[dict[str, Any]]]:
        """Return the name of the model, and the fields of each text's answer; the response has their id if kept."""
        found = models.find(body.model, lambda predictor: predictor.endpoint == endpoint)
        model = models.answering(found, body.user)
        inputs = _inputs(body, model)
        await screening.check_inputs(model, endpoint, inputs, 'input')
        batch_size = min(_MAX_BATCH, next_power_of_two(len(inputs)))
        try:
            predictions = await passes(model.model.predict, inputs, batch_size=batch_size)
        except UserError as error:
            raise Failure(400, str(error), param='input') from None
        rows = [{'index': i} | model.predictor.to_response(p) for i, p in enumerate(predictions)]
        if identifier := await keeper.keep(model, endpoint, inputs, rows):
            response.headers[feedback.HEADER] = identifier
        return model.name, rows

    @router.post('/v1/classify')
    async def classify(body: request_bodies.HeadRequest, response: Response) -> response_bodies.Classification:
        """Predict a label, labels or a number for each text."""
        name, rows = await predict(body, '/v1/classify', response)
        return response_bodies.Classification(model=name, data=[response_bodies.Classified(**row) for row in rows])

    @router.post('/v1/tag')
    async def tag(body: request_bodies.HeadRequest, response: Response) -> response_bodies.Tagging:
        """Find entities in each text, with their positions in characters."""
        name, rows = await predict(body, '/v1/tag', response)
        return response_bodies.Tagging(model=name, data=[response_bodies.Tagged(**row) for row in rows])

    return router


def _routes_of_state(engine: Engine, counters: Counters) -> APIRouter:
    router = APIRouter(tags=['state'])

    @router.get('/health', responses={500: errors.DOCUMENTED[500]})
    async def health() -> response_bodies.Status:
        """Report whether the process works."""
        if engine.failure:
            raise Failure(500, 'The engine has failed.')
        return response_bodies.Status(status='ok')

    @router.get('/ready', responses={503: errors.DOCUMENTED[503]})
    async def ready() -> response_bodies.Status:
        """Report whether the server accepts requests."""
        if engine.failure:
            raise Failure(503, 'The engine has failed.')
        return response_bodies.Status(status='ok', details={'waiting': engine.num_waiting, 'active': engine.num_active})

    @router.get('/metrics', response_class=Response)
    async def metrics() -> Response:
        """Return metrics for Prometheus."""
        content = prometheus_client.generate_latest(counters.registry)
        return Response(content, media_type='text/plain; version=0.0.4; charset=utf-8')

    return router


def _inputs(body: request_bodies.HeadRequest, model: ServedModel) -> list[Any]:
    """Return texts or pairs of texts, whichever the model reads."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    seconds = [body.second_input] if isinstance(body.second_input, str) else body.second_input
    reads_pairs = model.predictor.reads_pairs(model.model)
    if reads_pairs != (seconds is not None):
        expected = 'pairs: send a second_input for every input' if reads_pairs else 'single texts: send no second_input'
        raise Failure(400, f'The model {model.name!r} reads {expected}.', param='second_input')
    if seconds is not None and len(seconds) != len(texts):
        problem = f'input has {len(texts):,} texts, second_input has {len(seconds):,}'
        raise Failure(400, f'{problem}; each pair needs one of both.', param='second_input')
    return texts if seconds is None else list(zip(texts, seconds, strict=True))
