"""A number per text."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from palm_jax.errors import UserError
from palm_jax.labels.label_kind import Encoded, Evaluation, Label, Margin
from palm_jax.metrics import statistics


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number per text, encoded as float32 []; the only score and the prediction are the number itself."""

    has_classes = False
    is_exclusive = False

    def class_names(self, label: Label) -> list[str]:
        """Return no names."""
        del label
        return []

    def check(self, label: Label) -> None:
        """Raise UserError for a label that is not a finite number, or too large for float32."""
        label = str(label)
        try:
            value = float(label) if '_' not in label else math.nan
        except ValueError:
            value = math.nan
        if math.isfinite(value) and abs(value) <= float(np.finfo(np.float32).max):
            return
        shown = label if len(label) <= 40 else label[:40] + '…'
        if math.isnan(value):
            advice = ' Write decimals with a point: 1.5' if re.fullmatch(r'\s*[-+]?\d*,\d+\s*', label) else ''
            raise UserError(f'the label {shown!r} is not a number.{advice}')
        raise UserError(f'the label {shown!r} is not a number that float32 can hold.')

    def encode(self, label: Label, class_ids: Sequence[int], num_classes: int) -> Encoded:
        """Return the number, float32 []."""
        del class_ids, num_classes
        self.check(label)
        return np.float32(str(label))

    def num_scores(self, num_classes: int) -> int:
        """Return 1."""
        del num_classes
        return 1

    def describe(self, encoded: Encoded, names: Sequence[str]) -> float:
        """Return the number."""
        del names
        return float(encoded)

    def combine(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Return the mean of the numbers."""
        return np.mean(scores, axis=0)

    def evaluate(self, scores_E1: np.ndarray, labels_E: np.ndarray, names: Sequence[str]) -> Evaluation:
        """Return correlations and errors."""
        del names
        predicted_E = scores_E1[:, 0]
        return Evaluation(
            metrics=statistics.of_numbers(labels_E, predicted_E),
            interval=statistics.interval(
                len(labels_E), lambda rows: statistics.pearson(labels_E[rows], predicted_E[rows])
            ),
            predictions=[
                {'label': float(label), 'predicted': float(predicted)}
                for label, predicted in zip(labels_E, predicted_E, strict=True)
            ],
            badness=np.abs(predicted_E - labels_E),
        )

    def predict(self, scores_1: np.ndarray, names: Sequence[str]) -> float:
        """Return the number."""
        del names
        return float(scores_1[0])

    def margin(self, scores_1: np.ndarray, names: Sequence[str], label: str | None = None) -> Margin:
        """Return the number itself."""
        del names
        if label is not None:
            raise UserError(f'The model predicts a number, which has no label {label!r} to explain; leave it out.')
        return Margin(f'{float(scores_1[0]):.4g}', 0, is_log_odds=False)

    def to_json(self, prediction: float) -> dict[str, Any]:
        """Return the number as `predicted`."""
        return {'predicted': prediction}

    def to_response(self, prediction: float) -> dict[str, Any]:
        """Return the number without a label."""
        return {'label': None, 'labels': [], 'probabilities': {}, 'number': prediction}
