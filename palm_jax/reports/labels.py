"""Evaluation report for heads that label texts: classification, multi-label classification and regression."""

from __future__ import annotations

import collections
import dataclasses
import functools
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any

import numpy as np

from palm_jax.bounds import AtLeast, checked
from palm_jax.explanations.explain import Settings, explain
from palm_jax.explanations.heads import of_labels
from palm_jax.explanations.page import words_for_and_against
from palm_jax.labels.label_kind import Evaluation, LabelKind
from palm_jax.labels.single_label import SingleLabel
from palm_jax.metrics.text_baselines import Baseline
from palm_jax.reports import groups
from palm_jax.reports.pages import Table
from palm_jax.reports.plots import MOST_CLASSES, plot_confusion
from palm_jax.reports.report import (
    Measurements,
    RunReporter,
    available,
    cell,
    measurements_of,
    table_of_errors,
    worst_rows,
)
from palm_jax.training.result import EvaluationInput

_CONFUSED = 20  # pairs of classes in a report without a matrix


@checked
@dataclasses.dataclass(frozen=True)
class HeadReporter(RunReporter):
    """Scores the held-out texts, and evaluates the head's predictions.

    Attributes:
      kind: kind of label, see `palm_jax.labels`; decides what is measured.
      explained_errors: number of the worst errors for which the report says which words speak for the prediction and
        which against it, by integrated gradients; 0 explains none.
    """

    kind: LabelKind = SingleLabel()
    explained_errors: Annotated[int, AtLeast(0)] = 0

    def metric_names(self, data: Any) -> Collection[str]:
        """Return the names of the label kind's metrics, from the evaluation of two examples."""
        scores = np.zeros((2, self.kind.num_scores(len(data.labels))))
        with warnings.catch_warnings(action='ignore'):  # of statistics that two examples do not define
            names = self.kind.evaluate(scores, data.batch(0, 2)['labels'], data.labels).metrics.keys()
        has_groups = bool(getattr(getattr(data, 'table', None), 'group_column', None))
        return {*names, *([groups.metric_of(self.kind)] if has_groups else [])}

    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Score every held-out example."""
        scored = inputs.score()
        examples = inputs.data.validation_examples
        texts = [e.text if e.second_text is None else f'{e.text} / {e.second_text}' for e in examples]
        loss = inputs.evaluate()['loss'].value()
        scores_ES = np.stack(scored.scores).astype(np.float64)
        labels, baselines = np.stack(scored.labels), available(lambda: inputs.data.baselines)
        reasons = functools.partial(_reasons, self, inputs, scores_ES) if self.explained_errors else None
        names = inputs.data.labels
        measured = evaluate(self.kind, loss, names, texts, scores_ES, labels, baselines, reasons)
        return groups.with_groups(measured, self.kind, [getattr(e, 'group', None) for e in examples])


def evaluate(
    kind: LabelKind,
    loss: float,
    names: Sequence[str],
    texts: Sequence[str],
    scores_ES: np.ndarray,
    labels: np.ndarray,
    baselines: Sequence[Baseline] = (),
    reasons: Callable[[Evaluation], dict[str, Table]] | None = None,
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
      reasons: returns a further table, of the reasons of the worst errors; None for none.
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
        tables
        | table_of_errors('The worst errors', predictions, evaluation.badness)
        | ({} if reasons is None else reasons(evaluation)),
        figures=figures,
        text=evaluation.text,
    )


def _reasons(
    reporter: HeadReporter, inputs: EvaluationInput, scores_ES: np.ndarray, evaluation: Evaluation
) -> dict[str, Table]:
    """Return a table of the worst errors with the words that speak for and against the predictions."""
    chosen = worst_rows(evaluation.badness, reporter.explained_errors)
    examples = [inputs.data.validation_examples[i] for i in chosen]
    features, _ = inputs.data.inputs([(e.text, e.second_text) for e in examples])
    scores = [scores_ES[i] for i in chosen]
    rows = of_labels(reporter.kind, inputs.data, features, scores, [None] * len(chosen))
    settings = Settings(methods=('integrated_gradients',))
    found = explain(inputs.model, inputs.params, [[row] for row in rows], settings)
    header = ('text', 'label', 'what is explained', 'words for it', 'words against it')
    table = [header]
    for i, example, why in zip(chosen, examples, found, strict=True):
        label = cell(evaluation.predictions[i]['label'])
        table.append((' / '.join(example.texts), label, why.label, *words_for_and_against(why, 'integrated_gradients')))
    return {'Why the worst errors': table} if chosen else {}


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
