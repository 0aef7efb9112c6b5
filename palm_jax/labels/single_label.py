"""One class per text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import classification_report, precision_recall_fscore_support

from palm_jax.labels.label_kind import (
    Encoded,
    Evaluation,
    Label,
    Margin,
    class_id,
    rank_by_probability,
    top_probabilities,
)
from palm_jax.metrics import statistics

_MAX_CLASSES_IN_TERMINAL = 20


@dataclasses.dataclass(frozen=True)
class SingleLabel:
    """One class among C per text, encoded as int32 []; the scores are the logits of a softmax.

    Its prediction is a dict of probabilities by class, the likeliest first.
    """

    has_classes = True
    is_exclusive = True

    def class_names(self, label: Label) -> list[str]:
        """Return the label itself."""
        return [str(label)]

    def check(self, label: Label) -> None:
        """Accept every label."""

    def encode(self, label: Label, class_ids: Sequence[int], num_classes: int) -> Encoded:
        """Return the class's id, int32 []."""
        del label, num_classes
        return np.int32(class_ids[0])

    def num_scores(self, num_classes: int) -> int:
        """Return C."""
        return num_classes

    def describe(self, encoded: Encoded, names: Sequence[str]) -> str:
        """Return the class's name."""
        return names[int(encoded)]

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return softmax(scores) over the last axis, [..., C] in float64."""
        shifted = np.exp(np.asarray(scores, np.float64) - np.max(scores, axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)

    def combine(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logarithm of the mean probabilities."""
        return np.log(np.maximum(np.mean([self.probabilities(s) for s in scores], axis=0), np.finfo(np.float64).tiny))

    def evaluate(self, scores_EC: np.ndarray, labels_E: np.ndarray, names: Sequence[str]) -> Evaluation:
        """Return accuracy, F1 and calibration, with a table per class and a confusion matrix."""
        p_EC, predicted_E = self.probabilities(scores_EC), scores_EC.argmax(axis=1)
        badness_E = np.where(predicted_E == labels_E, -np.inf, -p_EC[np.arange(len(labels_E)), labels_E])
        return Evaluation(
            metrics=statistics.of_classes(labels_E, predicted_E, p_EC),
            interval=statistics.interval(
                len(labels_E), lambda rows: statistics.accuracy(labels_E[rows], predicted_E[rows])
            ),
            predictions=[
                {'label': names[label], 'predicted': names[predicted], 'probabilities': top_probabilities(names, p_C)}
                for label, predicted, p_C in zip(labels_E, predicted_E, p_EC, strict=True)
            ],
            badness=badness_E,
            tables={'Classes': table_of_classes(labels_E, predicted_E, names)},
            confusion=(labels_E, predicted_E),
            text=report_of_classes(labels_E, predicted_E, names),
        )

    def predict(self, scores_C: np.ndarray, names: Sequence[str]) -> dict[str, float]:
        """Return the probability of each class by name, the likeliest first."""
        return rank_by_probability(names, self.probabilities(scores_C))

    def margin(self, scores_C: np.ndarray, names: Sequence[str], label: str | None = None) -> Margin:
        """Return the log-odds of a class, z_c − log Σ_{j≠c} exp z_j; by default of the likeliest."""
        c = int(np.argmax(scores_C)) if label is None else class_id(names, label)
        return Margin(names[c], c, tuple(j for j in range(len(names)) if j != c))

    def to_json(self, prediction: dict[str, float]) -> dict[str, Any]:
        """Return the likeliest class as `predicted`, and all `probabilities`."""
        return {'predicted': next(iter(prediction)), 'probabilities': prediction}

    def to_response(self, prediction: dict[str, float]) -> dict[str, Any]:
        """Return the likeliest class as `label` and as the only one of `labels`."""
        label = next(iter(prediction))
        return {'label': label, 'labels': [label], 'probabilities': prediction}


def table_of_classes(labels_E: np.ndarray, predicted_E: np.ndarray, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return precision, recall, F1 and number of examples of every class, below a header; n/a where there are none."""
    ids = range(len(names))
    precision, recall, f1, count = precision_recall_fscore_support(
        labels_E, predicted_E, labels=np.array(ids), zero_division=0
    )
    shown = np.union1d(labels_E, predicted_E)
    cells = [[f'{x[c]:.3f}' if c in shown else 'n/a' for x in (precision, recall, f1)] for c in ids]
    rows = [(names[c], *cells[c], f'{int(count[c]):,}') for c in ids]
    return [('class', 'precision', 'recall', 'F1', 'examples'), *rows]


def report_of_classes(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> str:
    """Return scikit-learn's table for the terminal, or an empty text if there are more than 20 classes.

    Args:
      labels: class ids [E], or 0 and 1 per class [E, C].
      predicted: likewise.
      names: class names.
    """
    if len(names) > _MAX_CLASSES_IN_TERMINAL:
        return ''
    measured = np.arange(len(names)) if labels.ndim > 1 else np.union1d(labels, predicted)  # as in macro averages
    ids = [int(c) for c in measured]
    table = classification_report(
        labels, predicted, labels=ids, target_names=[names[c] for c in ids], digits=3, zero_division=0
    )
    missing = [name for c, name in enumerate(names) if c not in ids]
    return f'{table}\nnot measured, for lack of held-out examples: {", ".join(missing)}\n' if missing else table
