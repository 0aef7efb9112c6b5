"""Evaluation report for embeddings: alignment, uniformity, and Spearman's correlation on pairs with scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from palm_jax.inference.embeddings import Pooling, embeddings
from palm_jax.metrics import embeddings as metrics
from palm_jax.metrics import statistics
from palm_jax.reports.report import Measurements, RunReporter
from palm_jax.training.result import EvaluationInput
from palm_jax.wording import counted

_BOOTSTRAPS = 300


@dataclasses.dataclass(frozen=True)
class EmbeddingReporter(RunReporter):
    """Embeds the held-out texts, and compares the cosines of scored pairs with their scores.

    Attributes:
      pooling: feature of a text, see `models.heads.Head`.
    """

    pooling: Pooling = 'mean'

    def metric_names(self, data: Any) -> Collection[str]:
        """Return the names of the metrics that the data allows."""
        names = ['uniformity']
        names += ['alignment'] if data.table.positive_column is not None else []
        return names + (['spearman'] if data.table.pairs else [])

    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Embed every held-out text and every pair."""
        data = inputs.data
        loss = inputs.evaluate()
        texts = [example.texts for example in data.validation_examples]
        first = self._embed(inputs, [of_row[0] for of_row in texts])
        values = {'uniformity': metrics.uniformity(first)}
        if data.table.positive_column is not None:
            values['alignment'] = metrics.alignment(first, self._embed(inputs, [of_row[1] for of_row in texts]))
        intervals, predictions, lines = {}, [], []
        if pairs := data.table.pairs:
            x, y = (self._embed(inputs, [getattr(p, name) for p in pairs]) for name in ('text', 'second_text'))
            cosines, scores = (x * y).sum(axis=1).astype(np.float64), np.array([p.score for p in pairs])
            values = {'spearman': statistics.spearman(cosines, scores)} | values
            found = statistics.interval(
                len(pairs), lambda rows: statistics.spearman(cosines[rows], scores[rows]), _BOOTSTRAPS
            )
            intervals = {} if found is None else {'spearman': found}
            predictions = [
                dataclasses.asdict(p) | {'cosine': round(float(c), 6)} for p, c in zip(pairs, cosines, strict=True)
            ]
            limits = 'n/a' if found is None else f'{found[0]:.4f} to {found[1]:.4f}'
            interval = f'95% interval {limits}, {counted(len(pairs), "pair")}'
            lines.append(f'{"spearman":<16} {values["spearman"]:.4f}  ({interval})')
        lines += [f'{name:<16} {value:.4f}' for name, value in values.items() if name != 'spearman']
        return Measurements(
            {name: ratio.value() for name, ratio in loss.items()} | values,
            intervals,
            predictions or None,
            {'held_out_examples': len(texts)},
            lines=lines,
        )

    def _embed(self, inputs: EvaluationInput, texts: Sequence[str]) -> np.ndarray:
        data = inputs.data
        ids = [data.tokens(text)[0] for text in texts]
        return embeddings(
            inputs.model, inputs.params, ids, data.length, self.pooling, data.bidirectional, inputs.batch_size
        )
