"""What seqio's evaluator measures tasks by: the measures of the reports, as functions of targets and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from palm_jax.metrics import entities, statistics
from palm_jax.metrics import texts as text_measures

Metric = Callable[[Sequence[str], Sequence[str]], dict[str, float]]


def text_metric(*names: str, tokenizer: str = '13a') -> Metric:
    """Measures of `text_measures`, 0 to 100.

    Args:
      names: `bleu`, `chrf`, `rouge`, `squad`.
      tokenizer: of BLEU.
    """

    def metric(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        rows = np.arange(len(targets))
        found = text_measures.measure(names, predictions, [[target] for target in targets], tokenizer)
        return {name: of_rows(rows) for name, of_rows in found.items()}

    return metric


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """The share of labels that were written exactly, 0 to 1."""
    return {'accuracy': float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


def entity_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """F1 of entities in tags between blanks, as seqeval counts it, 0 to 1; a tag that was not written is O."""
    counts = np.zeros(3)
    for target, predicted in zip(targets, predictions, strict=True):
        right, said = target.split(), predicted.split()
        said = [tag if tag[:2] in ('B-', 'I-', 'E-', 'S-') else 'O' for tag in said]
        said = (said + ['O'] * len(right))[: len(right)]
        counts += statistics.entity_counts(entities.decode(right), entities.decode(said))
    return {'entity_f1': statistics.precision_recall_f1(*counts)[2]}
