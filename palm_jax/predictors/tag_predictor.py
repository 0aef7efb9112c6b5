"""Entities in texts, from a tag per word."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from palm_jax.characters import check_not_empty
from palm_jax.data.readers import columns
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError
from palm_jax.explanations.explainable import Explainable
from palm_jax.explanations.heads import of_tags
from palm_jax.labels.label_kind import class_id, listed
from palm_jax.metrics import entities
from palm_jax.predictors.head_scores import FEATURES, apply_head, head_scores
from palm_jax.predictors.predictor import Model

Entities = list[dict[str, Any]]  # {'type', 'text', 'start', 'end'} of each


@dataclasses.dataclass(frozen=True)
class TagPredictor:
    """Finds entities in texts with a head that scores every token; the data is `TaggedText`."""

    kind = 'tag'
    endpoint = '/v1/tag'
    method = 'extract_entities'
    purpose = 'to tag words'
    features = FEATURES

    def parse(self, model: Model, row: Row) -> str:
        """Return the text in the column `text`."""
        del model
        return columns.text(row, 'text', None)

    def reads_pairs(self, model: Model) -> bool:
        """Return False."""
        del model
        return False

    def predict(
        self, model: Model, inputs: Sequence[str | Sequence[str]], batch_size: int = 32, first: int = 0
    ) -> list[Entities]:
        """Return the entities of each text.

        Args:
          model: trained model.
          inputs: texts, or lists of words, which are joined by the separator that the model was trained with.
          batch_size: texts per forward pass.
          first: ignored.

        Returns:
          For each text a list of {'type', 'text', 'start', 'end'}; the entity is text[start:end].
        """
        del first
        found = _scored(model, inputs, batch_size)
        rows = zip(found.texts, found.words, found.ends, found.scores, strict=True)
        return [
            _entities(text, row, decide_tags(scores_LC, row_ends, model.data.labels))
            for text, row, row_ends, scores_LC in rows
        ]

    def explainables(
        self, model: Model, inputs: Sequence[Any], labels: Sequence[str | None], batch_size: int = 32
    ) -> list[list[Explainable]]:
        """Return the tags of each entity that is found; `labels` are types of entities to keep."""
        found = _scored(model, inputs, batch_size)
        words = [[text[start:end] for start, end in row] for text, row in zip(found.texts, found.words, strict=True)]
        return of_tags(model.data, words, found.features, found.ends, found.scores, labels)

    def check_label(self, model: Model, label: Any) -> None:
        """Check a list of tags, one per word."""
        if not isinstance(label, list):
            raise UserError(f'The label of this model is a list with a tag per word. {listed(model.data.labels)}')
        for tag in label:
            class_id(model.data.labels, tag)

    def to_json(self, prediction: Entities) -> dict[str, Any]:
        """Return the entities."""
        return {'entities': prediction}

    def to_response(self, prediction: Entities) -> dict[str, Any]:
        """Return the fields of `response_bodies.Tagged`."""
        return {'entities': prediction}

    def apply(self, model: Any, params: Any, *features: jax.Array) -> jax.Array:
        """Return the scores of every token, float32 [B, L, C]."""
        return apply_head(model, params, *features)


class _Scored(NamedTuple):
    """Texts, where their words begin and end, their features, the last token of each word, and the scores."""

    texts: list[str]
    words: list[list[tuple[int, int]]]
    features: Mapping[str, np.ndarray]
    ends: list[list[int]]
    scores: list[np.ndarray]


def _scored(model: Model, inputs: Sequence[Any], batch_size: int) -> _Scored:
    """Return the scores of texts, or of lists of words."""
    data = model.data
    for number, given in enumerate(inputs):
        is_words = isinstance(given, list | tuple) and all(isinstance(word, str) for word in given)
        if not isinstance(given, str) and not is_words:
            raise UserError(f'Input {number} is {given!r}; give a text or a list of words.')
        check_not_empty(given if isinstance(given, str) else ''.join(given), f'Input {number}')
    texts = [text if isinstance(text, str) else data.separator.join(text) for text in inputs]
    words = [_words(data, given) for given in inputs]
    features, ends = data.inputs(
        [[text[start:end] for start, end in row] for text, row in zip(texts, words, strict=True)]
    )
    return _Scored(
        texts, words, features, ends, head_scores(model.model, model.params, features, len(texts), batch_size)
    )


def decide_tags(scores_LC: Any, ends: Sequence[int], names: Sequence[str]) -> list[str]:
    """Return the highest-scoring tag of each word, read at the word's last token."""
    return [names[i] for i in scores_LC[ends].argmax(axis=-1)] if ends else []


def _words(data: Any, given: str | Sequence[str]) -> list[tuple[int, int]]:
    """Return where each word begins and ends in a text, or in a list of words joined by the separator."""
    if isinstance(given, str):
        return [word.span() for word in data.words(given)]
    spans, start = [], 0
    for word in given:
        spans.append((start, start + len(word)))
        start += len(word) + len(data.separator)
    return spans


def _entities(text: str, words: Sequence[tuple[int, int]], tags: Sequence[str]) -> Entities:
    spans = [(e.type, words[e.first][0], words[e.last - 1][1]) for e in entities.decode(tags)]
    return [{'type': t, 'text': text[start:end], 'start': start, 'end': end} for t, start, end in spans]
