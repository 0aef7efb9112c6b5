"""Continuations of texts by a model that was trained on text alone."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

from palm_jax.characters import check_characters
from palm_jax.data.readers import columns
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError
from palm_jax.inference.completion import Completion
from palm_jax.inference.generate import Decoder, encode_prompts
from palm_jax.predictors.generator import Generator
from palm_jax.predictors.predictor import Model

_LOGGER = logging.getLogger(__name__)

# A chat as a model sees it that was trained on text alone; it continues after the last colon.
_PLAIN_TURN, _PLAIN_STOP = '{role}: {content}\n', '\nuser:'


@dataclasses.dataclass(frozen=True)
class LanguageModelPredictor(Generator):
    """Continues texts: `0 text`, or `text` of a base without a start token."""

    purpose = 'on text alone'

    def parse(self, model: Model, row: Row) -> str:
        """Return the text in the column that the training table had, or in `text`; it must leave room for a token."""
        text = columns.text(row, *_column(model, row))
        length = model.data.length
        if len(self.prompt(model, text)) >= length:
            raise UserError(f'{row.location}: the text is longer than the {length} tokens of the context.')
        return text

    def prompt(self, model: Model, given: str) -> tuple[int, ...]:
        """Return `0 text`, or the text alone if the base was trained without a start token."""
        vocabulary = model.data.vocabulary
        return (*vocabulary.start_ids, *vocabulary.encode(check_characters(given, 'the prompt')))

    def chat_prompt(
        self, model: Model, messages: Sequence[Mapping[str, str]]
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return the messages as the base's chat template writes them.

        Without one they are `role: content` lines, and the next `user:` ends the answer.
        """
        vocabulary = model.data.vocabulary
        if vocabulary.chat_template is not None:
            text = vocabulary.chat_template.render(messages, add_generation_prompt=True)
            return tuple(vocabulary.encode(text)), vocabulary.chat_template.stop
        turns = ''.join(_PLAIN_TURN.format(**message) for message in messages)
        return self.prompt(model, f'{turns}assistant:'), (_PLAIN_STOP,)

    def target(self, model: Model, text: str) -> list[int]:
        """Return the text's ids."""
        return model.data.vocabulary.encode(check_characters(text, 'the continuation'))

    def completions(
        self, model: Model, inputs: Sequence[str], sampler: Decoder | None = None, first: int = 0
    ) -> list[list[Completion]]:
        """Return the completions of texts, each of which must leave room for a token."""
        for number, given in enumerate(inputs):
            if not isinstance(given, str):
                raise UserError(f'Input {number} is {given!r}; this model continues texts.')
            check_characters(given, f'input {number}')
        prompts = encode_prompts(model.data.vocabulary, inputs, model.data.length)
        return self.complete_ids(model, prompts, sampler, first)

    def answer(self, model: Model, prompts: Sequence[str]) -> list[str]:
        """Return what follows each prompt; the beginning of a prompt that leaves too little room is dropped."""
        length, sampler = model.data.length, model.sampler
        room = max(length // 2, length - sampler.max_tokens)
        encoded = [self.prompt(model, prompt) for prompt in prompts]
        num_too_long = sum(len(ids) > room for ids in encoded)
        if num_too_long:
            _LOGGER.warning(
                f'{num_too_long:,} of {len(prompts):,} prompts are longer than {room} tokens, which leaves room for '
                f'the answer in a context of {length}: their beginnings are dropped. '
                'Use fewer --shots or a smaller MAX_NEW_TOKENS.'
            )
        completions = self.complete_ids(model, [ids[-room:] for ids in encoded])
        return [best.text for best, *_ in completions]


def _column(model: Model, row: Row) -> tuple[str, str | None]:
    """Return the column of a row that holds the text, and the macro that names it if there is one."""
    known = getattr(model.data, 'text_column', None)
    if known is None or ('text' in row.values and known not in row.values):
        return 'text', None
    return known, 'TEXT_COLUMN'
