"""The models that are served: what each can do, and how what is asked becomes a prompt."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from palm_jax.api import trained_model
from palm_jax.api.trained_model import Trained
from palm_jax.data.supervised.conversations import Dialogues
from palm_jax.data.supervised.labelled_text import LabelledText
from palm_jax.data.supervised.tagged_text import TaggedText
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.errors import UserError
from palm_jax.inference import decoding
from palm_jax.inference.decoding import START_ID
from palm_jax.inference.engine import Engine

Kind = Literal['text', 'text to text', 'chat', 'classify', 'tag']
# How a model that has only read text is shown a chat; it goes on after the last colon.
_PLAIN_TURN, _PLAIN_STOP = '{role}: {content}\n', '\nuser:'


@dataclasses.dataclass(frozen=True)
class Served:
    """A trained model under a name."""

    name: str
    model: Trained
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    @property
    def kind(self) -> Kind:
        """What it was trained to do."""
        data = self.model.data
        if isinstance(data, LabelledText):
            return 'classify'
        if isinstance(data, TaggedText):
            return 'tag'
        if isinstance(data, TextToText):
            return 'chat' if isinstance(data.source, Dialogues) else 'text to text'
        return 'text'

    @property
    def generates(self) -> bool:
        """Whether it writes text."""
        return self.kind not in ('classify', 'tag')

    def prompt(self, given: str | Sequence[int]) -> tuple[int, ...]:
        """The ids of a completion's prompt: of a text as the model was trained to read it, or as they are given."""
        data = self.model.data
        if not isinstance(given, str):
            if unknown := [i for i in given if i >= data.vocabulary.size]:
                raise UserError(f'Token {unknown[0]} is unknown: the vocabulary has {data.vocabulary.size}.')
            return (START_ID, *given)
        return data.asked(given) if self.kind != 'text' else (START_ID, *data.vocabulary.encode(given))

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """The ids to answer behind, and texts that end the answer of a model which was not trained on chats."""
        if self.kind == 'chat':
            return self.model.data.asked(messages), ()
        if self.kind == 'text to text':
            return self.prompt(messages[-1]['content']), ()
        turns = ''.join(_PLAIN_TURN.format(**message) for message in messages)
        return self.prompt(f'{turns}assistant:'), (_PLAIN_STOP,)


def load(wanted: Sequence[str], flags: Sequence[tuple[str, str]]) -> dict[str, Served]:
    """The models of `[NAME=]MODEL_DIR`; the name is the directory's own by default.

    Adapters on one base share its arrays. `flags` are (NAME, value) of bindings for all of them.
    """
    known: dict[Path, Any] = {}
    served: dict[str, Served] = {}
    for text in wanted:
        name, _, directory = text.rpartition('=')
        directory = directory.removesuffix('/config.gin')
        name = name or Path(directory).resolve().name
        if name in served:
            raise UserError(f'Two models are called {name}; name one of them: --model=another={directory}')
        served[name] = Served(name, trained_model.load_with(directory, flags, known=known))
    return served


def fill(engine: Engine, served: dict[str, Served]) -> None:
    """Gives the engine all models that write."""
    copies: dict[int, Any] = {}
    for name, one in served.items():
        if one.generates:
            model = one.model
            weights = model.sampler.weights
            unstack_layers = decoding.unstack_layers(model.model, model.params, weights, copies)
            bidirectional = getattr(model.data, 'bidirectional', False)
            engine.add(name, *unstack_layers, model.data.vocabulary, model.data.length, bidirectional)
