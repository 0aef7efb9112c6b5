"""Evaluation report for heads that label texts: classification, multi-label classification and regression."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from palm_jax.labels.label_kind import LabelKind
from palm_jax.labels.single_label import SingleLabel
from palm_jax.partitioning import shard_batch
from palm_jax.reports.pages import WORST, Pages, Table
from palm_jax.reports.plots import plot_confusion
from palm_jax.training.head_losses import scores_of
from palm_jax.training.result import TrainingResult


@dataclasses.dataclass(frozen=True)
class HeadReporter:
    """Predicts the labels of the held-out texts when a run ends, and evaluates the predictions.

    Attributes:
      kind: kind of label, see `palm_jax.labels`; decides what is measured.
    """

    kind: LabelKind = SingleLabel()

    def __call__(self, finished: TrainingResult) -> Pages:
        """Score every held-out example."""
        scores, labels = held_out_scores(finished)
        names = finished.data.labels
        evaluation = self.kind.evaluate(np.concatenate(scores), np.stack(labels), names)
        texts = [
            e.text if e.second_text is None else f'{e.text} / {e.second_text}'
            for e in finished.data.validation_examples
        ]
        predictions = [
            {'text': text} | prediction for text, prediction in zip(texts, evaluation.predictions, strict=True)
        ]
        pictures = {}
        if evaluation.confusion is not None:
            pictures['confusion.png'] = lambda path: plot_confusion(*evaluation.confusion, names, path)
        return Pages(
            finished,
            finished.evaluate()['loss'].value(),
            evaluation.metrics,
            evaluation.interval,
            predictions,
            {**evaluation.tables, 'The worst errors': worst(predictions, evaluation.badness)},
            pictures,
            evaluation.text,
        )


def held_out_scores(finished: TrainingResult) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the head's scores of the held-out split, float64 [b, ...] per batch, and the labels per example."""
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


def worst(predictions: Sequence[dict[str, Any]], badness: np.ndarray) -> Table:
    """Return a table of the examples with the greatest badness [E]; -inf marks a right prediction."""
    rows = [('text', 'label', 'predicted')]
    for i in np.argsort(-badness, kind='stable')[:WORST]:
        if np.isfinite(badness[i]):
            rows.append((predictions[i]['text'], str(predictions[i]['label']), str(predictions[i]['predicted'])))
    return rows
