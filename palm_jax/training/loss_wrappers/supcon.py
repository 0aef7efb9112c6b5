"""Supervised contrastive learning beside cross-entropy (Gunel et al., arXiv 2011.01403)."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, AtMost, checked
from palm_jax.errors import UserError
from palm_jax.models.heads import pool
from palm_jax.training.contrast import supervised_contrast
from palm_jax.training.loss_wrappers.of_texts import check_labels_texts
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.metrics import Ratio


@checked
@dataclasses.dataclass(frozen=True)
class SupCon(LossWrapper):
    """(1 − λ)·L + λ·SCL, the contrast between texts of one class and all others of the batch.

    It is computed from the features that the head pools, and averaged over texts as L is; for the formula, see
    `contrast.supervised_contrast`. With MICROBATCHES, texts are contrasted within a part of the batch.

    Attributes:
      weight: share λ of the contrast (paper: 0.1 to 0.9); 0 trains without it.
      temperature: temperature τ (paper: 0.1 to 0.7).
    """

    weight: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    temperature: Annotated[float, Above(0)] = 0.3

    def check(self, model):
        """Refuse a model that does not score whole texts."""
        if self.weight:
            check_labels_texts('SupCon', model)

    def __call__(self, loss, inputs):
        """Return the loss; see `of_prediction`."""
        return super().__call__(loss, inputs) if self.weight else loss(inputs)

    def of_prediction(self, loss, prediction, inputs):
        """Return the loss; the metric `contrastive_loss` is the mean of SCL per text."""
        value, metrics = loss.of_prediction(prediction, inputs)
        if not self.weight:
            return value, metrics
        labels, weights = inputs.batch['labels'], inputs.batch['label_weights'].astype(jnp.float32)
        if labels.ndim > 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
            raise UserError(
                'SupCon contrasts texts of a class, --gin_file=gin/heads/classification.gin, and this task has label '
                'sets or numbers: leave the method out.'
            )
        pooled = pool(
            prediction.features.astype(jnp.float32), inputs.batch['decoder_segment_ids'], inputs.model.head.pooling
        )
        contrast = (weights * supervised_contrast(pooled, labels, weights > 0, self.temperature)).sum()
        value = (1 - self.weight) * value + self.weight * contrast
        return value, metrics | {'contrastive_loss': Ratio(contrast, metrics['loss'].count)}
