"""The filter of made texts: a classifier's own confidence that they still have their label."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from palm_jax.api.trained_model import TrainedModel
from palm_jax.data.readers import columns
from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError, closest
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.predictors.predictor import purpose_of
from palm_jax.synthesis.maker import of_run


@dataclasses.dataclass(frozen=True)
class Confidence:
    """A classifier that says how probable a row's label is for a text that was made of it.

    Attributes:
      model: model of one class per text, trained on the same labels.
      label_column: column of the table with the label.
      threshold: smallest probability of the label with which a text is kept.
      batch_size: texts per pass.
    """

    model: TrainedModel
    label_column: str = 'label'
    threshold: float = 0.7
    batch_size: int = 32

    def __post_init__(self) -> None:
        predictor = self.model.predictor
        is_one = isinstance(predictor, LabelPredictor) and predictor.label_kind.is_exclusive
        if not is_one or predictor.reads_pairs(self.model):
            raise UserError(
                f'--filter={self.model.config.parent} was trained {purpose_of(self.model)}; the filter needs a run '
                'that predicts one class per text: --gin_file=gin/heads/classification.gin.'
            )

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse rows whose label the classifier does not know.

        Raises:
          UserError: with the location of the row.
        """
        for row in rows:
            label = columns.label(row, self.label_column, '--label_column')
            if label not in self.model.data.labels:
                known = ', '.join(self.model.data.labels[:20])
                nearest = closest(label, self.model.data.labels)
                raise UserError(
                    f'{row.location}: --filter={self.model.config.parent} knows no label {label!r}.{nearest} '
                    f'Known: {known}.'
                )

    def of_label(self, rows: Sequence[Row], texts: Sequence[str]) -> list[float]:
        """Return the probability of each row's label for the text that was made of it."""
        if not texts:
            return []
        predictions = self.model.predict(list(texts), batch_size=self.batch_size)
        labels = [columns.label(row, self.label_column, '--label_column') for row in rows]
        return [float(p[label]) for p, label in zip(predictions, labels, strict=True)]

    def depends_on(self) -> object:
        """Return the run by content, and the threshold."""
        return of_run(self.model) | {'threshold': self.threshold, 'label_column': self.label_column}
