"""Any number of classes per text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from palm_jax.bounds import NotEmpty, checked
from palm_jax.labels.label_kind import (
    Encoded,
    Evaluation,
    Label,
    Margin,
    class_id,
    rank_by_probability,
    top_probabilities,
)
from palm_jax.labels.single_label import report_of_classes
from palm_jax.metrics import statistics


@checked
@dataclasses.dataclass(frozen=True)
class LabelSet:
    """Any number of C classes per text: joined by a separator in the table, or a list; float32 [C] in {0, 1}.

    Each score is the logit of one class, which is predicted if its probability is above 0.5. The prediction is a dict
    of probabilities by class, the likeliest first; they do not add up to 1.

    Attributes:
      separator: text between the labels in a cell of the table.
    """

    separator: Annotated[str, NotEmpty(may_be_blank=True)] = '|'

    has_classes = True
    is_exclusive = False

    def class_names(self, label: Label) -> list[str]:
        """Return the names between the separators, or of the list; none for an empty label."""
        names = label.split(self.separator) if isinstance(label, str) else label
        return [name.strip() for name in names if name.strip()]

    def check(self, label: Label) -> None:
        """Accept every label."""

    def encode(self, label: Label, class_ids: Sequence[int], num_classes: int) -> np.ndarray:
        """Return 1 for the label's classes and 0 for the others, float32 [C]."""
        del label
        return np.isin(np.arange(num_classes), class_ids).astype(np.float32)

    def num_scores(self, num_classes: int) -> int:
        """Return C."""
        return num_classes

    def describe(self, encoded: Encoded, names: Sequence[str]) -> list[str]:
        """Return the names of the label's classes."""
        return [name for name, holds in zip(names, np.asarray(encoded), strict=True) if holds]

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return sigmoid(scores), [..., C] in float64."""
        return 1 / (1 + np.exp(-np.asarray(scores, np.float64)))

    def combine(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Return the log-odds of the mean probabilities."""
        tiny = np.finfo(np.float64).eps
        p = np.clip(np.mean([self.probabilities(s) for s in scores], axis=0), tiny, 1 - tiny)
        return np.log(p) - np.log1p(-p)

    def evaluate(self, scores_EC: np.ndarray, labels_EC: np.ndarray, names: Sequence[str]) -> Evaluation:
        """Return F1 and the share of examples whose classes are all right."""
        p_EC, predicted_EC = self.probabilities(scores_EC), (scores_EC > 0).astype(np.float64)
        is_right_E = (predicted_EC == labels_EC).all(axis=1)
        return Evaluation(
            metrics=statistics.of_label_sets(labels_EC, predicted_EC, p_EC),
            interval=statistics.interval(
                len(labels_EC), lambda rows: statistics.accuracy(labels_EC[rows], predicted_EC[rows])
            ),
            predictions=[
                {
                    'label': self.describe(label_C, names),
                    'predicted': self.describe(predicted_C, names),
                    'probabilities': top_probabilities(names, p_C),
                }
                for label_C, predicted_C, p_C in zip(labels_EC, predicted_EC, p_EC, strict=True)
            ],
            badness=np.where(is_right_E, -np.inf, np.abs(p_EC - labels_EC).max(axis=1)),
            text=report_of_classes(labels_EC, predicted_EC, names),
        )

    def predict(self, scores_C: np.ndarray, names: Sequence[str]) -> dict[str, float]:
        """Return the probability of each class by name, the likeliest first."""
        return rank_by_probability(names, self.probabilities(scores_C))

    def margin(self, scores_C: np.ndarray, names: Sequence[str], label: str | None = None) -> Margin:
        """Return the log-odds of a class, which are its score; by default of the likeliest."""
        c = int(np.argmax(scores_C)) if label is None else class_id(names, label)
        return Margin(names[c], c)

    def to_json(self, prediction: dict[str, float]) -> dict[str, Any]:
        """Return the classes above 0.5 as `predicted`, and all `probabilities`."""
        return {'predicted': _above_half(prediction), 'probabilities': prediction}

    def to_response(self, prediction: dict[str, float]) -> dict[str, Any]:
        """Return the likeliest class as `label`, and those above 0.5 as `labels`."""
        return {'label': next(iter(prediction)), 'labels': _above_half(prediction), 'probabilities': prediction}


def _above_half(prediction: dict[str, float]) -> list[str]:
    return [name for name, p in prediction.items() if p > 0.5]
