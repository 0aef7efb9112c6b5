"""Texts generated from inputs: translations, summaries, answers to questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from palm_jax.characters import check_characters
from palm_jax.data.readers.row import Row
from palm_jax.errors import located
from palm_jax.inference.completion import Completion
from palm_jax.inference.decoding import EOS_ID
from palm_jax.inference.generate import Decoder
from palm_jax.predictors.generator import Generator
from palm_jax.predictors.predictor import Model


@dataclasses.dataclass(frozen=True)
class TextToTextPredictor(Generator):
    """Generates a target from an input; the data is `data.supervised.text_to_text.TextToText`."""

    kind = 'text to text'
    purpose = 'from text to text'

    def parse(self, model: Model, row: Row) -> Any:
        """Return the row's columns, which must have those that the data reads; of a line of text the text."""
        given = next(iter(row.values.values())) if row.is_line else dict(row.values)
        with located(row.location):
            self.prompt(model, given)
        return given

    def prompt(self, model: Model, given: Any) -> tuple[int, ...]:
        """Return `0 input EOS`; an input is a text or a dict of the columns that the template names."""
        return model.data.prompt(given)

    def chat_prompt(
        self, model: Model, messages: Sequence[Mapping[str, str]]
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return the last message as the input."""
        with located(f'message {len(messages)}'):
            return self.prompt(model, messages[-1]['content']), ()

    def stop(self, model: Model) -> tuple[str, ...]:
        """Return what ends a target besides EOS, which the data says."""
        return model.data.stop

    def target(self, model: Model, text: str) -> list[int]:
        """Return `text EOS`."""
        return [*model.data.vocabulary.encode(check_characters(text, 'the continuation')), EOS_ID]

    def is_bidirectional(self, model: Model) -> bool:
        """Return whether the model was trained as a prefix LM."""
        return model.data.bidirectional

    def complete_ids(
        self, model: Model, prompts: Sequence[Sequence[int]], sampler: Decoder | None = None, first: int = 0
    ) -> list[list[Completion]]:
        """Return completions of at most the length of a training target."""
        sampler = sampler or model.sampler
        sampler = dataclasses.replace(sampler, max_tokens=min(sampler.max_tokens, model.data.target_length))
        sampler = sampler.stopping_at(model.data.stop)
        return super().complete_ids(model, prompts, sampler, first)

    def answer(self, model: Model, prompts: Sequence[str]) -> list[str]:
        """Return the answer to each prompt; the data cuts what is too long."""
        return self.predict(model, prompts)
