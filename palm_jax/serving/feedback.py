"""What a server keeps of requests, if it was asked to, and the endpoint that takes feedback to its answers."""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from palm_jax.errors import UserError
from palm_jax.inference.engine import Delta
from palm_jax.monitoring.request_log import RequestLog
from palm_jax.serving import errors, fields
from palm_jax.serving.errors import Failure
from palm_jax.serving.fields import Body
from palm_jax.serving.models import ServedModel

_LOGGER = logging.getLogger(__name__)
HEADER = 'X-Request-Id'  # of an answer of a head that was kept


class FeedbackRequest(Body):
    """Request of /v1/feedback: what a user says to an answer.

    Attributes:
      id: id of the answer: the header X-Request-Id of /v1/classify and /v1/tag, the field `id` of the others.
      index: number of the text or choice in the answer.
      label: right label, labels or number, or the right text.
      rating: thumbs up or down.
      comment: text of the user.
    """

    id: Annotated[str, fields.TEXT]
    index: int = Field(0, ge=0, le=100_000)
    label: str | list[str] | float | None = None
    rating: Literal['up', 'down'] | None = None
    comment: Annotated[str | None, fields.TEXT] = None


class FeedbackResponse(BaseModel):
    """Response of /v1/feedback."""

    object: Literal['feedback'] = 'feedback'
    id: str
    index: int


@dataclasses.dataclass(frozen=True)
class Keeper:
    """Keeps requests with their answers; without a log it keeps nothing.

    Attributes:
      log: where they are kept.
    """

    log: RequestLog | None = None

    async def keep(
        self, model: ServedModel, endpoint: str, inputs: Sequence[Any], answers: Sequence[Any]
    ) -> str | None:
        """Keep a request of a head; return its id, or None if nothing is kept."""
        if self.log is None:
            return None
        identifier = f'req-{uuid.uuid4().hex}'
        await run_in_threadpool(self._add, identifier, model, endpoint, inputs, answers)
        return identifier

    async def keep_texts(
        self, identifier: str, model: ServedModel, endpoint: str, inputs: Sequence[Any], texts: Sequence[str]
    ) -> None:
        """Keep a request for generated texts under the id of its answer."""
        if self.log is not None:
            answers = [{'text': text} for text in texts]
            await run_in_threadpool(self._add, identifier, model, endpoint, inputs, answers)

    def of_stream(
        self,
        identifier: str,
        model: ServedModel,
        endpoint: str,
        inputs: Sequence[Any],
        chunk: Callable[[int, Delta], Any],
        last: Callable[[], Any],
    ) -> tuple[Callable[[int, Delta], Any], Callable[[], Any]]:
        """Return `chunk` and `last` of a stream, see `answers.stream`, such that its texts are kept at its end."""
        if self.log is None:
            return chunk, last
        texts = [''] * len(inputs)

        def kept_chunk(index: int, delta: Delta) -> Any:
            texts[index] += delta.text
            return chunk(index, delta)

        def kept_last() -> Any:
            self._add(identifier, model, endpoint, inputs, [{'text': text} for text in texts])
            return last()

        return kept_chunk, kept_last

    def _add(
        self, identifier: str, model: ServedModel, endpoint: str, inputs: Sequence[Any], answers: Sequence[Any]
    ) -> None:
        assert self.log is not None
        self.log.add(identifier, model.name, str(model.model.checkpoint), endpoint, inputs, answers)


def refusing_routes() -> APIRouter:
    """Return the endpoint of a server that keeps nothing, so that there is nothing to say feedback to."""
    router = APIRouter()

    @router.post('/v1/feedback', include_in_schema=False)
    async def feedback() -> None:
        message = 'This server keeps no answers, and takes no feedback. Start it with palm-jax serve --keep=requests.db'
        raise Failure(404, message, 'nothing_is_kept')

    return router


def routes(log: RequestLog, served: Mapping[str, ServedModel]) -> APIRouter:
    """Return the endpoint that takes feedback.

    Args:
      log: where answers were kept, and feedback is.
      served: models by name, which say what labels there are.
    """
    router = APIRouter(tags=['feedback'], responses={status: errors.DOCUMENTED[status] for status in (404, 503)})

    @router.post('/v1/feedback')
    async def feedback(body: FeedbackRequest) -> FeedbackResponse:
        """Keep what a user says to an answer: the right label or text, thumbs, a comment."""
        comment = body.comment if body.comment and body.comment.strip() else None
        if body.label is None and body.rating is None and comment is None:
            raise Failure(400, 'Send a label, a rating or a comment.', param='label')
        try:
            name = await run_in_threadpool(log.model_of, body.id, body.index)
            if body.label is not None and name is not None and name in served:
                _check_label(served[name], body.label)
            known = name is not None and await run_in_threadpool(
                log.add_feedback, body.id, body.index, body.label, body.rating, comment
            )
        except log.errors:
            _LOGGER.exception('feedback could not be kept')
            raise Failure(503, 'Feedback cannot be kept now; retry later.', 'busy', Retry_After='10') from None
        if not known:
            message = f'There is no answer {body.id[:60]!r} with the index {body.index}; it may have been deleted.'
            raise Failure(404, message, 'answer_not_found', 'id')
        return FeedbackResponse(id=body.id, index=body.index)

    return router


def _check_label(entry: ServedModel, label: Any) -> None:
    """Raise Failure if a model cannot give a label."""
    try:
        entry.predictor.check_label(entry.model, label)
    except UserError as error:
        raise Failure(400, str(error), param='label') from None
