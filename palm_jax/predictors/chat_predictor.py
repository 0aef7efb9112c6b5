"""Replies in dialogues."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from palm_jax.data.readers.tables import Row
from palm_jax.predictors.predictor import Model
from palm_jax.predictors.text_to_text_predictor import TextToTextPredictor


@dataclasses.dataclass(frozen=True)
class ChatPredictor(TextToTextPredictor):
    """Generates the reply to the messages so far; the data is `TextToText` on `Dialogues`."""

    kind = 'chat'
    endpoint = '/v1/chat/completions'
    purpose = 'on dialogues'

    def parse(self, model: Model, row: Row) -> dict[str, Any]:
        """Return the row's columns; `messages` may be a list as JSON, or a message."""
        columns = dict(row.values)
        if 'messages' in columns:
            columns['messages'] = _from_json(columns['messages'])
        return self._checked(model, row, columns)

    def chat_prompt(
        self, model: Model, messages: Sequence[Mapping[str, str]]
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return all messages as the model was trained to read them."""
        return self.prompt(model, messages), ()


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
