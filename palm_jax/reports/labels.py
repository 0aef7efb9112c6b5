"""Evaluation report for heads that label texts: classification, multi-label classification and regression."""

from __future__ import annotations

import collections
import dataclasses
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from palm_jax.labels.label_kind import LabelKind
from palm_jax.labels.single_label import SingleLabel
from palm_jax.metrics.text_baselines import Baseline
from palm_jax.reports.pages import Table
from palm_jax.reports.plots import MOST_CLASSES, plot_confusion
from palm_jax.reports.report import Measurements, RunReporter, available, measurements_of, table_of_errors
from palm_jax.training.result import EvaluationInput

_CONFUSED = 20  # pairs of classes in a report without a matrix


@dataclasses.dataclass(frozen=True)
class HeadReporter(RunReporter):
    """Scores the held-out texts, and evaluates the head's predictions.

    Attributes:
      kind: kind of label, see `palm_jax.labels`; decides what is measured.
    """

    kind: LabelKind = SingleLabel()

    def metric_names(self, data: Any) -> Collection[str]:
        """Return the names of the label kind's metrics, from the evaluation of two examples."""
        scores = np.zeros((2, self.kind.num_scores(len(data.labels))))
        with warnings.catch_warnings(action='ignore'):  # of statistics that two examples do not define
            return self.kind.evaluate(scores, data.batch(0, 2)['labels'], data.labels).metrics.keys()

    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Score every held-out example."""
        scored = inputs.score()
        examples = inputs.data.validation_examples
        texts = [e.text if e.second_text is None else f'{e.text} / {e.second_text}' for e in examples]
        loss = inputs.evaluate()['loss'].value()
        scores_ES = np.concatenate(scored.scores).astype(np.float64)
        labels, baselines = np.concatenate(scored.labels), available(lambda: inputs.data.baselines)
        return evaluate(self.kind, loss, inputs.data.labels, texts, scores_ES, labels, baselines)


def evaluate(
    kind: LabelKind,
    loss: float,
    names: Sequence[str],
    texts: Sequence[str],
    scores_ES: np.ndarray,
    labels: np.ndarray,
    baselines: Sequence[Baseline] = (),
) -> Measurements:
    """Evaluate the head's scores of E examples.

    Args:
      kind: kind of label.
      loss: mean loss over the examples.
      names: names of the classes, in the order of the scores.
      texts: text of every example.
      scores_ES: float64 [E, S], before softmax or sigmoid.
      labels: encoded labels [E, ...], see `LabelKind.encode`.
      baselines: what baselines reach on the same examples.
    """
    evaluation = kind.evaluate(scores_ES, labels, names)
    predictions = [{'text': text} | row for text, row in zip(texts, evaluation.predictions, strict=True)]
    confusion, figures = evaluation.confusion, {}
    tables = dict(evaluation.tables)
    if confusion is not None and len(names) > MOST_CLASSES:
        tables |= most_confused(*confusion, names)
    elif confusion is not None:
        figures['confusion.png'] = lambda path: plot_confusion(confusion[0], confusion[1], names, path)
    return measurements_of(
        loss,
        evaluation.metrics,
        evaluation.interval,
        predictions,
        baselines,
        tables | table_of_errors('The worst errors', predictions, evaluation.badness),
        figures=figures,
        text=evaluation.text,
    )


def most_confused(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> dict[str, Table]:
    """Return a table of the pairs of classes that are confused most often, or none if all predictions are right.

    Args:
      labels: true classes, int [E], indices into `names`.
      predicted: predicted classes, int [E].
      names: names of the classes.
    """
    pairs = collections.Counter((t, p) for t, p in zip(labels.tolist(), predicted.tolist(), strict=True) if t != p)
    rows = [(names[t], names[p], f'{count:,}') for (t, p), count in pairs.most_common(_CONFUSED)]
    return {'Most confused classes': [('label', 'predicted', 'examples'), *rows]} if rows else {}
