"""Metrics of registered tasks, the same as in reports, as functions of targets and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from palm_jax.metrics import entities, statistics
from palm_jax.metrics import texts as text_metrics

Metric: TypeAlias = Callable[[Sequence[str], Sequence[str]], dict[str, float]]


def text_metric(*names: str, tokenizer: str = '13a') -> Metric:
    """Return a metric that computes those of `palm_jax.metrics.texts`, 0 to 100.

    Args:
      names: one or more of `bleu`, `chrf`, `rouge`, `squad`.
      tokenizer: tokenizer of BLEU, see `sacrebleu`.
    """

    def metric(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        rows = np.arange(len(targets))
        found = text_metrics.compute(names, predictions, [[target] for target in targets], tokenizer)
        return {name: of_rows(rows) for name, of_rows in found.items()}

    return metric


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return the share of predicted labels that match exactly, 0 to 1."""
    return {'accuracy': float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


def entity_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return F1 of entities as seqeval counts it, 0 to 1, from tags separated by spaces; missing tags are O."""
    counts = np.zeros(3)
    for target, predicted in zip(targets, predictions, strict=True):
        right, found = target.split(), predicted.split()
        found = [tag if tag[:2] in ('B-', 'I-', 'E-', 'S-') else 'O' for tag in found]
        found = (found + ['O'] * len(right))[: len(right)]
        counts += statistics.entity_counts(entities.decode(right), entities.decode(found))
    return {'entity_f1': statistics.precision_recall_f1(*counts)[2]}
