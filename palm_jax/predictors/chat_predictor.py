"""Replies in dialogues."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from palm_jax.predictors.predictor import Model
from palm_jax.predictors.text_to_text_predictor import TextToTextPredictor


@dataclasses.dataclass(frozen=True)
class ChatPredictor(TextToTextPredictor):
    """Generates the reply to the messages so far; the data is `TextToText` on `Dialogues`."""

    kind = 'chat'
    endpoint = '/v1/chat/completions'
    purpose = 'on dialogues'

    def chat_prompt(
        self, model: Model, messages: Sequence[Mapping[str, str]]
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return all messages as the model was trained to read them."""
        return self.prompt(model, messages), self.stop(model)
