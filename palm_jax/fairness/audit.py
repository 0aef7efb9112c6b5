"""The groups of a table, compared by what a model predicts for their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from palm_jax.errors import UserError, closest, located
from palm_jax.fairness.groups import Groups, compare_groups
from palm_jax.labels import scoring
from palm_jax.predictors.label_predictor import LabelPredictor


def check_kind(model: Any) -> None:
    """Refuse a model whose predictions are not labels.

    Raises:
      UserError: the model does not label texts.
    """
    if not isinstance(model.predictor, LabelPredictor):
        raise UserError(
            f'palm-jax fairness compares the labels that groups are given; this model was trained '
            f'{model.predictor.purpose}.'
        )


def compare(
    model: Any,
    inputs: Sequence[Any],
    labels: Sequence[Any],
    groups: Mapping[str, Sequence[str]],
    batch_size: int = 32,
    seed: int = 0,
) -> list[Groups]:
    """Compare the groups of each column and, of several columns, of all of them together.

    Args:
      model: trained model that labels texts, an `api.TrainedModel`.
      inputs: texts or pairs of texts.
      labels: right label of each, as a table has it.
      groups: group of each input, by the name of the column.
      batch_size: texts per forward pass.
      seed: seed of the bootstrap.

    Raises:
      UserError: there are no rows, a label is not one of the model's, or a column has one group only.
    """
    check_kind(model)
    kind = model.data.table.kind
    if not inputs:
        raise UserError('There are no rows to compare groups of.')
    for number, label in enumerate(labels, 1):
        with located(f'Row {number}'):
            check_label(model, label)
    predicted = [model.predictor.to_json(p)['predicted'] for p in model.predict(inputs, batch_size=batch_size)]
    scores = np.array([scoring.score(kind, p, label) for p, label in zip(predicted, labels, strict=True)])
    sets: tuple[Any, Any] = (None, None)
    if kind.has_classes:
        right, given = ([frozenset(kind.class_names(_as_label(x))) for x in rows] for rows in (labels, predicted))
        sets = right, given
    columns = dict(groups)
    if len(groups) > 1:
        columns[' × '.join(groups)] = [' × '.join(row) for row in zip(*groups.values(), strict=True)]
    metric = 'accuracy' if kind.has_classes else 'mean absolute error'
    return [compare_groups(name, of, scores, metric, sets[0], sets[1], seed) for name, of in columns.items()]


def check_label(model: Any, label: Any) -> None:
    """Refuse a label, as a table has it, that is not one of the model's.

    Raises:
      UserError: with the labels that it has.
    """
    kind, names = model.data.table.kind, model.data.labels
    kind.check(_as_label(label))
    if unknown := [name for name in kind.class_names(_as_label(label)) if names and name not in names]:
        shown = f'{", ".join(names[:20])}{" ..." if len(names) > 20 else ""}'
        raise UserError(
            f'the label {unknown[0]!r} is not one of the model.{closest(unknown[0], names)} Known: {shown}.'
        )


def _as_label(label: Any) -> Any:
    return tuple(label) if isinstance(label, list) else str(label)
