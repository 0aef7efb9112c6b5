"""Evaluation report for heads that label texts: classification, multi-label classification and regression."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from palm_jax.labels.label_kind import LabelKind
from palm_jax.labels.single_label import SingleLabel
from palm_jax.partitioning import shard_batch
from palm_jax.reports.plots import plot_confusion
from palm_jax.reports.report import Measurements, RunReporter, measurements_of, worst
from palm_jax.training.head_losses import scores_of
from palm_jax.training.result import EvaluationInput


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
        scores, labels = held_out_scores(inputs)
        examples = inputs.data.validation_examples
        texts = [e.text if e.second_text is None else f'{e.text} / {e.second_text}' for e in examples]
        loss = inputs.evaluate()['loss'].value()
        return evaluate(self.kind, loss, inputs.data.labels, texts, np.concatenate(scores), np.stack(labels))


def evaluate(
    kind: LabelKind, loss: float, names: Sequence[str], texts: Sequence[str], scores_ES: np.ndarray, labels: np.ndarray
) -> Measurements:
    """Evaluate the head's scores of E examples.

    Args:
      kind: kind of label.
      loss: mean loss over the examples.
      names: names of the classes, in the order of the scores.
      texts: text of every example.
      scores_ES: float64 [E, S], before softmax or sigmoid.
      labels: encoded labels [E, ...], see `LabelKind.encode`.
    """
    evaluation = kind.evaluate(scores_ES, labels, names)
    predictions = [{'text': text} | row for text, row in zip(texts, evaluation.predictions, strict=True)]
    confusion, figures = evaluation.confusion, {}
    if confusion is not None:
        figures['confusion.png'] = lambda path: plot_confusion(confusion[0], confusion[1], names, path)
    return measurements_of(
        loss,
        evaluation.metrics,
        evaluation.interval,
        predictions,
        tables={**evaluation.tables, 'The worst errors': worst(predictions, evaluation.badness)},
        figures=figures,
        text=evaluation.text,
    )


def held_out_scores(inputs: EvaluationInput) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the head's scores of the held-out split, float64 [b, ...] per batch, and the labels per example."""
    scores, labels = [], []
    batches, missing = inputs.data.validation(inputs.batch_size), len(inputs.data.validation_examples)
    for batch in tqdm(batches, desc='predicting', unit=' batches', leave=False):
        batch_scores = _scores(inputs.model, inputs.params, shard_batch(batch, inputs.mesh))
        scores.append(np.asarray(batch_scores, np.float64)[:missing])  # the last batch is padded
        labels.extend(batch['labels'][:missing])
        missing -= len(scores[-1])
    return scores, labels


_scores = jax.jit(scores_of, static_argnums=0)  # one function for all evaluations: compiled once
