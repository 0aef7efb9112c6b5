"""How good a head is that gives a text a class, labels or a number."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from sklearn.metrics import classification_report, precision_recall_fscore_support
from tqdm import tqdm

from palm_jax.metrics import statistics
from palm_jax.partitioning import shard_batch
from palm_jax.reports.pages import WORST, Pages, Table
from palm_jax.reports.plots import plot_confusion
from palm_jax.training.head_losses import scores_of
from palm_jax.training.result import TrainingResult


@dataclasses.dataclass(frozen=True)
class HeadReporter:
    """Predicts the held-out part when a run ends, and measures it.

    Attributes:
      kind: what the labels are, as of `LabelledTable`.
    """

    kind: Literal['class', 'labels', 'number'] = 'class'

    def __call__(self, finished: TrainingResult) -> Pages:
        """Scores every held-out example."""
        scores, labels = held_out_scores(finished)
        examples = finished.data.validation_examples
        texts = [e.text if e.second_text is None else f'{e.text} / {e.second_text}' for e in examples]
        loss = finished.evaluate()['loss'].value()
        return _REPORTS[self.kind](
            finished, loss, finished.data.labels, texts, np.concatenate(scores), np.stack(labels)
        )


def held_out_scores(finished: TrainingResult) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The head's scores of the held-out part, float64 [b, ...] a batch, and the labels an example."""
    scores, labels = [], []
    batches, missing = finished.data.validation(finished.batch_size), len(finished.data.validation_examples)
    for batch in tqdm(batches, desc='predicting', unit=' batches', leave=False):
        batch_scores = _scores(finished.model, finished.state, shard_batch(batch, finished.mesh))
        scores.append(np.asarray(batch_scores, np.float64)[:missing])  # the last batch is filled up
        labels.extend(batch['labels'][:missing])
        missing -= len(scores[-1])
    return scores, labels


@functools.partial(jax.jit, static_argnums=0)  # the same function at every evaluation: compiled once
def _scores(model, state, batch):
    return scores_of(model, state.all_params, batch)


def of_classes(
    finished: TrainingResult,
    loss: float,
    names: Sequence[str],
    texts: Sequence[str],
    scores: np.ndarray,
    labels: np.ndarray,
) -> Pages:
    """The report of one class an example.

    Args:
      finished, loss: the run, and its mean loss over the examples.
      names: of the classes, in the order of the scores.
      texts: of the examples.
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
    return Pages(
        finished,
        loss,
        statistics.of_classes(labels, predicted, p),
        statistics.interval(len(labels), lambda rows: statistics.accuracy(labels[rows], predicted[rows])),
        predictions,
        {
            'Classes': [('class', 'precision', 'recall', 'F1', 'examples'), *rows],
            'The worst errors': worst(predictions, badness),
        },
        {'confusion.png': lambda path: plot_confusion(labels, predicted, names, path)},
        classification_report(labels, predicted, **shown) if len(names) <= 20 else '',
    )


def of_label_sets(finished, loss, names, texts, scores, labels) -> Pages:
    """The report of labels that hold or not, float [E, C]; arguments as of `of_classes`."""
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
    return Pages(
        finished,
        loss,
        statistics.of_label_sets(labels, predicted, p),
        statistics.interval(len(labels), lambda rows: statistics.accuracy(labels[rows], predicted[rows])),
        predictions,
        {'The worst errors': worst(predictions, badness)},
        table=classification_report(labels, predicted, **shown) if len(names) <= 20 else '',
    )


def of_numbers(finished, loss, names, texts, scores, labels) -> Pages:
    """The report of a number an example, float [E]; arguments as of `of_classes`, names are none."""
    del names
    predicted = scores[:, 0]
    predictions = [
        {'text': text, 'label': float(labels[i]), 'predicted': float(predicted[i])} for i, text in enumerate(texts)
    ]
    return Pages(
        finished,
        loss,
        statistics.of_numbers(labels, predicted),
        statistics.interval(len(labels), lambda rows: statistics.pearson(labels[rows], predicted[rows])),
        predictions,
        {'The worst errors': worst(predictions, np.abs(predicted - labels))},
    )


_REPORTS = {'class': of_classes, 'labels': of_label_sets, 'number': of_numbers}


def worst(predictions: Sequence[dict[str, Any]], badness: np.ndarray) -> Table:
    """The examples of the greatest badness [E]; -inf is right."""
    rows = [('text', 'label', 'predicted')]
    for i in np.argsort(-badness, kind='stable')[:WORST]:
        if np.isfinite(badness[i]):
            rows.append((predictions[i]['text'], str(predictions[i]['label']), str(predictions[i]['predicted'])))
    return rows


def _likeliest(names: Sequence[str], p: np.ndarray) -> dict[str, dict[str, float]]:
    return {'probabilities': {names[c]: round(float(p[c]), 6) for c in np.argsort(-p)[:5]}}
