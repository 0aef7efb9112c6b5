"""What the kinds of task share whose models generate text."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError, located
from palm_jax.explanations.answers import of_answer
from palm_jax.explanations.explainable import Explainable
from palm_jax.inference.completion import Completion
from palm_jax.inference.generate import Decoder, begin
from palm_jax.predictors.predictor import Model
from palm_jax.special_ids import EOS_ID


@dataclasses.dataclass(frozen=True)
class Generator(abc.ABC):
    """A predictor whose predictions are generated texts."""

    kind = 'text'
    endpoint = '/v1/completions'
    method = 'generate'
    purpose = 'to generate text'
    features = ('decoder_input_tokens',)

    @abc.abstractmethod
    def parse(self, model: Model, row: Row) -> Any:
        """See `Predictor.parse`."""

    @abc.abstractmethod
    def prompt(self, model: Model, given: Any) -> tuple[int, ...]:
        """Return the ids of an input as the model was trained to read it, the start token included if it has one.

        Without one, those of an empty text are none; `generate.begin` makes a prompt of them.

        Raises:
          UserError: if the input lacks something.
        """

    @abc.abstractmethod
    def chat_prompt(
        self, model: Model, messages: Sequence[Mapping[str, str]]
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return the ids of a chat whose last message is to be answered, and stop strings that end the answer.

        Args:
          model: trained model.
          messages: {'role', 'content'} of each, in order.
        """

    def check_label(self, model: Model, label: Any) -> None:
        """Check a right answer, which may be any text that is not empty."""
        del model
        if not isinstance(label, str):
            raise UserError(f'The right answer of this model is a text, not {label!r}.')
        if not label.strip():
            raise UserError('The right answer of this model is a text; this one is empty.')

    def stop(self, model: Model) -> tuple[str, ...]:
        """Return the strings besides EOS that end whatever the model generates: none."""
        del model
        return ()

    @abc.abstractmethod
    def target(self, model: Model, text: str) -> list[int]:
        """Return the ids of a continuation as the model was trained to generate it."""

    @abc.abstractmethod
    def answer(self, model: Model, prompts: Sequence[str]) -> list[str]:
        """Return the text that follows each prompt of an evaluation task, however long the prompt is."""

    def is_bidirectional(self, model: Model) -> bool:
        """Return whether the tokens of a prompt attend to one another in both directions."""
        del model
        return False

    def reads_pairs(self, model: Model) -> bool:
        """Return False."""
        del model
        return False

    def completions(
        self, model: Model, inputs: Sequence[Any], sampler: Decoder | None = None, first: int = 0
    ) -> list[list[Completion]]:
        """Return the completions of each input, the best first; see `TrainedModel.completions`."""
        return self.complete_ids(model, self.prompts(model, inputs), sampler, first)

    def prompts(self, model: Model, inputs: Sequence[Any]) -> list[tuple[int, ...]]:
        """Return the ids of inputs, see `prompt`.

        Raises:
          UserError: with the number of the input that lacks something.
        """
        found = []
        for number, given in enumerate(inputs):
            with located(f'Input {number}'):
                found.append(self.prompt(model, given))
        return found

    def complete_ids(
        self, model: Model, prompts: Sequence[Sequence[int]], sampler: Decoder | None = None, first: int = 0
    ) -> list[list[Completion]]:
        """Return the completions of prompts of ids."""
        sampler, data = sampler or model.sampler, model.data
        prompts = [ids or begin(data.vocabulary, ()) for ids in prompts]
        return sampler.generate(
            *model.for_decoding, data.vocabulary, prompts, data.length, self.is_bidirectional(model), first
        )

    def predict(self, model: Model, inputs: Sequence[Any], batch_size: int = 32, first: int = 0) -> list[str]:
        """Return the best completion of each input as text; the run's sampler has its own batch size."""
        del batch_size
        return [best.text for best, *_ in self.completions(model, inputs, first=first)]

    def explainables(
        self, model: Model, inputs: Sequence[Any], labels: Sequence[str | None], batch_size: int = 32
    ) -> list[list[Explainable]]:
        """Return the answer to each input: the text in `labels`, or the best completion."""
        del batch_size
        prompts = [self.prompt(model, given) for given in inputs]
        asked = [number for number, label in enumerate(labels) if label is None]
        completed = dict(zip(asked, self.completions(model, [inputs[i] for i in asked]) if asked else (), strict=True))
        rows = []
        for number, (prompt, label) in enumerate(zip(prompts, labels, strict=True)):
            if label is None:
                best = completed[number][0]
                text, ids = best.text, [*best.ids, *[EOS_ID] * (len(best.logprobs) > len(best.ids))]
            else:
                text, ids = label, self.target(model, label)
            num_bidirectional = len(prompt) if self.is_bidirectional(model) else 0
            rows.append([of_answer(model.data.vocabulary, prompt, ids, text, num_bidirectional)])
        return rows

    def to_json(self, prediction: str) -> dict[str, Any]:
        """Return the text as `predicted`."""
        return {'predicted': prediction}

    def to_response(self, prediction: str) -> dict[str, Any]:
        """Return the text; the engine's answers are made of deltas instead, see `serving.answers`."""
        return {'text': prediction}

    def apply(self, model: Any, params: Any, *features: jax.Array) -> jax.Array:
        """Return the logits of tokens, float32 [B, L, V]."""
        return model.apply({'params': params}, *features)
