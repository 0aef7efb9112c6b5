"""Labels for texts or pairs of texts; the kind of label says which labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from palm_jax.characters import check_not_empty
from palm_jax.data.readers import columns
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError
from palm_jax.explanations.explainable import Explainable
from palm_jax.explanations.heads import of_labels
from palm_jax.labels.label_kind import LabelKind, class_id, listed
from palm_jax.predictors.head_scores import FEATURES, apply_head, head_scores
from palm_jax.predictors.predictor import Model


@dataclasses.dataclass(frozen=True)
class LabelPredictor:
    """Predicts the label of a text or of a pair of texts from the scores of a head.

    The data is `LabelledText`, or has its `inputs`, `labels` and `table`.

    Attributes:
      label_kind: kind of label: makes predictions of scores, and JSON of predictions.
    """

    label_kind: LabelKind

    kind = 'classify'
    endpoint = '/v1/classify'
    method = 'predict'
    features = FEATURES

    @property
    def purpose(self) -> str:
        """What models with this kind of label are trained to do."""
        if not self.label_kind.has_classes:
            return 'to predict numbers for texts'
        return 'to label texts' if self.label_kind.is_exclusive else 'to give texts any number of labels'

    def parse(self, model: Model, row: Row) -> str | tuple[str, str]:
        """Return the text, or the pair of texts, in the columns that the training table had."""
        table = model.data.table
        if self.reads_pairs(model) and row.is_line:
            raise UserError(
                f'{row.location}: a line is one text, but this model reads pairs of texts: give a table with the '
                f'columns {table.text_column!r} and {table.second_text_column!r}.'
            )
        text = columns.text(row, table.text_column, 'TEXT_COLUMN')
        if not self.reads_pairs(model):
            return text
        return text, columns.text(row, table.second_text_column, 'SECOND_TEXT_COLUMN')

    def reads_pairs(self, model: Model) -> bool:
        """Return whether the model was trained on pairs of texts."""
        return model.data.table.second_text_column is not None

    def predict(
        self, model: Model, inputs: Sequence[str | tuple[str, str]], batch_size: int = 32, first: int = 0
    ) -> list[Any]:
        """Return the prediction of the kind of label for each text or pair of texts."""
        del first
        _, scores = _scored(model, inputs, batch_size)
        return [self.label_kind.predict(scores_S, model.data.labels) for scores_S in scores]

    def explainables(
        self, model: Model, inputs: Sequence[Any], labels: Sequence[str | None], batch_size: int = 32
    ) -> list[list[Explainable]]:
        """Return the margin of one label of each text or pair of texts."""
        features, scores = _scored(model, inputs, batch_size)
        return [[row] for row in of_labels(self.label_kind, model.data, features, scores, labels)]

    def check_label(self, model: Model, label: Any) -> None:
        """Check a label: the name of a class, a list of names, or a number, as the kind of label has it."""
        kind, names = self.label_kind, model.data.labels
        is_number = isinstance(label, int | float) and not isinstance(label, bool)
        if not kind.has_classes:
            if not is_number:
                raise UserError(f'The label of this model is a number, not {label!r}.')
            kind.check(str(label))
        elif kind.is_exclusive:
            if not isinstance(label, str):
                raise UserError(f'The label of this model is one of its names, a text. {listed(names)}')
            class_id(names, label)
        else:
            if is_number:
                raise UserError(f'The labels of this model are a list of its names. {listed(names)}')
            for name in kind.class_names(label):
                class_id(names, name)

    def to_json(self, prediction: Any) -> dict[str, Any]:
        """Return `predicted` and, where there are classes, `probabilities`."""
        return self.label_kind.to_json(prediction)

    def to_response(self, prediction: Any) -> dict[str, Any]:
        """Return the fields of `response_bodies.Classified`."""
        return self.label_kind.to_response(prediction)

    def apply(self, model: Any, params: Any, *features: jax.Array) -> jax.Array:
        """Return the head's scores, float32 [B, S]."""
        return apply_head(model, params, *features)


def _scored(model: Model, inputs: Sequence[Any], batch_size: int) -> tuple[Mapping[str, np.ndarray], list[np.ndarray]]:
    """Return the features of texts or pairs of texts, and the scores of each."""
    pairs = [_pair(given, number) for number, given in enumerate(inputs)]
    features, _ = model.data.inputs(pairs)
    return features, head_scores(model.model, model.params, features, len(pairs), batch_size)


def _pair(given: Any, number: int) -> tuple[str, str | None]:
    """Return an input as a text and a second text or None."""
    texts = (given,) if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or len(texts) not in (1, 2) or not all(isinstance(t, str) for t in texts):
        raise UserError(f'Input {number} is {given!r}; give a text or a pair of texts.')
    for part, text in enumerate(texts):
        check_not_empty(text, f'Input {number}' if len(texts) == 1 else f'Input {number}, part {part},')
    return texts[0], texts[1] if len(texts) == 2 else None
