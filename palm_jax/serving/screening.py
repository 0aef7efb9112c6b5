"""What the rules of a content filter mean for requests: inputs that they refuse, and answers that they take away."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from palm_jax.errors import UserError
from palm_jax.inference.engine import Delta
from palm_jax.monitoring.content_filter import ContentFilter, Side
from palm_jax.serving.errors import Failure
from palm_jax.serving.models import ServedModel

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Screening:
    """Lets the rules of a server read what it is asked and what it writes.

    Attributes:
      rules: rules; without any, everything passes.
    """

    rules: ContentFilter = ContentFilter()

    async def check_inputs(self, model: ServedModel, endpoint: str, given: Any, param: str) -> None:
        """Refuse a request if a rule refuses one of its texts.

        Args:
          model: model that is asked.
          endpoint: path of the request.
          given: texts, pairs of texts, token ids or messages.
          param: field that they are in.

        Raises:
          Failure: 400 with the code `content_filter`.
        """
        if not self.rules.reads('input'):
            return
        texts = list(_texts(given, model))
        refused = await self._refused(texts, 'input', model=model.name, endpoint=endpoint)
        if name := next((rule for rule in refused if rule is not None), None):
            raise Failure(400, f'The rule {name!r} of this server refuses the input.', 'content_filter', param)

    async def _refused(self, texts: Sequence[str], side: Side, **about: Any) -> list[str | None]:
        try:
            return await run_in_threadpool(self.rules.refused, texts, side, **about)
        except UserError as error:  # of a scorer; what was not read is not sent
            _LOGGER.error('%s', error)
            raise Failure(500, str(error)) from None

    @property
    def reads_answers(self) -> bool:
        """Whether there are rules for what is written: answers are then sent whole, also in streams."""
        return self.rules.reads('output')

    async def answers(self, model: ServedModel, written: Sequence[Delta]) -> list[Delta]:
        """Return answers, those that a rule refuses without their text and with the finish reason `content_filter`."""
        texts = [delta.text for delta in written]
        refused = await self._refused(texts, 'output', model=model.name)
        return [
            delta if rule is None else Delta('', (), 'content_filter')
            for delta, rule in zip(written, refused, strict=True)
        ]


def _texts(given: Any, model: ServedModel) -> Iterator[str]:
    """Yield all texts in inputs."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, dict):
        yield from _texts(given['content'], model)
    elif given and isinstance(given[0], int):
        yield model.model.data.vocabulary.decode(list(given))
    else:
        for part in given:
            yield from _texts(part, model)
