"""The report of a tagger: entities found, by type."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from palm_jax.metrics import entities, statistics
from palm_jax.metrics.entities import Entity
from palm_jax.metrics.text_baselines import Baseline
from palm_jax.reports.report import Measurements, RunReporter, available, measurements_of, table_of_errors
from palm_jax.training.result import EvaluationInput


@dataclasses.dataclass(frozen=True)
class TagReporter(RunReporter):
    """Tags the held-out sentences, and measures the entities found."""

    def metric_names(self, data: Any) -> Collection[str]:
        """Return the names of the metrics of entities, from one sentence."""
        sentence = data.validation_examples[0]
        return measurements(0.0, [sentence], [list(sentence.tags)]).metrics.keys()

    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Score every held-out sentence."""
        sentences, names = inputs.data.validation_examples, inputs.data.labels
        scores = inputs.score().scores
        _, places = inputs.data.inputs([s.words for s in sentences])
        chosen = (row.argmax(axis=-1) for row in scores)
        predicted = []
        for ids, ends, sentence in zip(chosen, places, sentences, strict=True):
            tags = [names[i] for i in ids[ends]]
            predicted.append(tags + ['O'] * (len(sentence.words) - len(tags)))  # words beyond the length
        loss, data = inputs.evaluate()['loss'].value(), inputs.data
        return measurements(loss, sentences, predicted, data.separator, available(lambda: data.baselines))


def measurements(
    loss: float,
    sentences: Sequence[Any],
    predicted: Sequence[list[str]],
    separator: str = ' ',
    baselines: Sequence[Baseline] = (),
) -> Measurements:
    """Measure predicted tags.

    Entities are counted as seqeval does: a correct one has the same type and the same words.

    Args:
      loss: mean loss over the sentences.
      sentences: sentences with `words` and `tags`.
      predicted: tags of every sentence, one per word.
      separator: text between the words of a sentence.
      baselines: what baselines reach on the same sentences.
    """
    true = [entities.decode(s.tags) for s in sentences]
    found = [entities.decode(tags) for tags in predicted]
    counts = np.array([statistics.entity_counts(*pair) for pair in zip(true, found, strict=True)], float)
    precision, recall, f1 = statistics.precision_recall_f1(*counts.sum(axis=0))
    by_type: dict[str, np.ndarray] = collections.defaultdict(lambda: np.zeros(3))
    for t, f in zip(true, found, strict=True):
        for name in {e.type for e in (*t, *f)}:
            one = [[e for e in group if e.type == name] for group in (t, f)]
            by_type[name] += statistics.entity_counts(*one)
    rows = []
    for name in sorted(by_type):
        scores = (f'{score:.3f}' for score in statistics.precision_recall_f1(*by_type[name]))
        rows.append((name, *scores, f'{by_type[name][2]:.0f}'))
    right = sum(a == b for s, tags in zip(sentences, predicted, strict=True) for a, b in zip(s.tags, tags, strict=True))
    predictions = [
        {
            'text': separator.join(s.words),
            'label': _phrases(s.words, t, separator),
            'predicted': _phrases(s.words, f, separator),
            'words': s.words,
            'tags': s.tags,
            'predicted_tags': tags,
        }
        for s, t, f, tags in zip(sentences, true, found, predicted, strict=True)
    ]
    badness = counts[:, 1] + counts[:, 2] - 2 * counts[:, 0]  # entities missed and invented
    header = ('entity', 'precision', 'recall', 'F1', 'examples')
    return measurements_of(
        loss,
        {
            'entity_f1': f1,
            'entity_precision': precision,
            'entity_recall': recall,
            'tag_accuracy': right / sum(len(s.tags) for s in sentences),
        },
        statistics.interval(len(sentences), lambda i: statistics.precision_recall_f1(*counts[i].sum(axis=0))[2]),
        predictions,
        baselines,
        {
            'Entities': [header, *rows],
            **table_of_errors('The worst errors', predictions, np.where(badness > 0, badness, -np.inf)),
        },
        text='\n'.join('  '.join(cell.ljust(14) for cell in row) for row in (header, *rows)) + '\n',
    )


def _phrases(words: Sequence[str], found: Sequence[Entity], separator: str) -> list[str]:
    return [f'{e.type}: {separator.join(words[e.first : e.last])}' for e in found]
