"""The reports of heads that score texts: one class, several labels, or a number per text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from sklearn.metrics import classification_report, precision_recall_fscore_support
from tqdm import tqdm

from palm_jax.metrics import statistics
from palm_jax.partitioning import shard_batch
from palm_jax.reports.plots import plot_confusion
from palm_jax.reports.report import Measurements, RunReporter, measurements_of, worst
from palm_jax.training.head_losses import scores_of
from palm_jax.training.result import EvaluationInput


@dataclasses.dataclass(frozen=True)
class HeadReporter(RunReporter):
    """Scores the held-out examples, and measures the head's decisions.

    Attributes:
      kind: kind of the labels, see `LabelledTable`.
    """

    kind: Literal['class', 'labels', 'number'] = 'class'

    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Score every held-out example."""
        scores, labels = held_out_scores(inputs)
        examples = inputs.data.validation_examples
        texts = [e.text if e.second_text is None else f'{e.text} / {e.second_text}' for e in examples]
        loss = inputs.evaluate()['loss'].value()
        return _MEASUREMENTS[self.kind](loss, inputs.data.labels, texts, np.concatenate(scores), np.stack(labels))


def held_out_scores(inputs: EvaluationInput) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Score the held-out part: the head's scores, float64 [b, ...] per batch, and the labels of every example."""
    scores, labels = [], []
    batches, missing = inputs.data.validation(inputs.batch_size), len(inputs.data.validation_examples)
    for batch in tqdm(batches, desc='predicting', unit=' batches', leave=False):
        batch_scores = _scores(inputs.model, inputs.params, shard_batch(batch, inputs.mesh))
        scores.append(np.asarray(batch_scores, np.float64)[:missing])  # the last batch is padded
        labels.extend(batch['labels'][:missing])
        missing -= len(scores[-1])
    return scores, labels


_scores = jax.jit(scores_of, static_argnums=0)  # one function for all evaluations: compiled once


def of_classes(
    loss: float, names: Sequence[str], texts: Sequence[str], scores: np.ndarray, labels: np.ndarray
) -> Measurements:
    """Measure one class per example.

    Args:
      loss: mean loss over the examples.
      names: names of the classes, in the order of the scores.
      texts: text of every example.
      scores: [E, C] float64, before softmax.
      labels: int [E].
    """
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    p, predicted, ids = shifted / shifted.sum(axis=1, keepdims=True), scores.argmax(axis=1), np.arange(len(names))
    precision, recall, f1, count = precision_recall_fscore_support(labels, predicted, labels=ids, zero_division=0)
    rows = [(names[c], f'{precision[c]:.3f}', f'{recall[c]:.3f}', f'{f1[c]:.3f}', str(count[c])) for c in ids]
    badness = -p[np.arange(len(labels)), labels]
    badness[predicted == labels] = -np.inf
    predictions = [
        {'text': text, 'label': names[labels[i]], 'predicted': names[predicted[i]]} | _likeliest(names, p[i])
        for i, text in enumerate(texts)
    ]
    shown = {'labels': ids, 'target_names': list(names), 'digits': 3, 'zero_division': 0}
    return measurements_of(
        loss,
        statistics.of_classes(labels, predicted, p),
        statistics.interval(len(labels), lambda rows: statistics.accuracy(labels[rows], predicted[rows])),
        predictions,
        tables={
            'Classes': [('class', 'precision', 'recall', 'F1', 'examples'), *rows],
            'The worst errors': worst(predictions, badness),
        },
        figures={'confusion.png': lambda path: plot_confusion(labels, predicted, names, path)},
        text=classification_report(labels, predicted, **shown) if len(names) <= 20 else '',
    )


def of_label_sets(
    loss: float, names: Sequence[str], texts: Sequence[str], scores: np.ndarray, labels: np.ndarray
) -> Measurements:
    """Measure labels that hold or not, float [E, C]; arguments as in `of_classes`, scores before the sigmoid."""
    p = 1 / (1 + np.exp(-scores))
    predicted = (scores > 0).astype(np.float64)
    badness = np.abs(p - labels).max(axis=1)
    badness[(predicted == labels).all(axis=1)] = -np.inf
    chosen = lambda row: [name for name, on in zip(names, row, strict=True) if on]  # noqa: E731
    predictions = [
        {'text': text, 'label': chosen(labels[i]), 'predicted': chosen(predicted[i])} | _likeliest(names, p[i])
        for i, text in enumerate(texts)
    ]
    shown = {'target_names': list(names), 'digits': 3, 'zero_division': 0}
    return measurements_of(
        loss,
        statistics.of_label_sets(labels, predicted, p),
        statistics.interval(len(labels), lambda rows: statistics.accuracy(labels[rows], predicted[rows])),
        predictions,
        tables={'The worst errors': worst(predictions, badness)},
        text=classification_report(labels, predicted, **shown) if len(names) <= 20 else '',
    )


def of_numbers(
    loss: float, names: Sequence[str], texts: Sequence[str], scores: np.ndarray, labels: np.ndarray
) -> Measurements:
    """Measure a number per example, float [E]; arguments as in `of_classes`, scores [E, 1] without names."""
    del names
    predicted = scores[:, 0]
    predictions = [
        {'text': text, 'label': float(labels[i]), 'predicted': float(predicted[i])} for i, text in enumerate(texts)
    ]
    return measurements_of(
        loss,
        statistics.of_numbers(labels, predicted),
        statistics.interval(len(labels), lambda rows: statistics.pearson(labels[rows], predicted[rows])),
        predictions,
        tables={'The worst errors': worst(predictions, np.abs(predicted - labels))},
    )


_MEASUREMENTS = {'class': of_classes, 'labels': of_label_sets, 'number': of_numbers}


def _likeliest(names: Sequence[str], p: np.ndarray) -> dict[str, dict[str, float]]:
    return {'probabilities': {names[c]: round(float(p[c]), 6) for c in np.argsort(-p)[:5]}}
