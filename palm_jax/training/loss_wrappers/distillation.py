"""Distillation of a teacher's predictions (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, AtMost, checked
from palm_jax.errors import UserError
from palm_jax.training.loss_wrappers.of_texts import check_labels_texts
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.metrics import Ratio


@checked
@dataclasses.dataclass(frozen=True)
class Distillation(LossWrapper):
    """(1 − α)·L + α·T²·KL(p_T ‖ p_S), both softened: p = softmax(scores / T).

    The teacher's scores are in the batch, see `data.supervised.teacher.TeacherPredictions`. For label sets the
    divergence is that of each label. A text without a prediction of the teacher has L alone.

    Attributes:
      weight: share α of the teacher; 0 trains without it, 1 without the labels.
      temperature: temperature T; higher ones also teach which wrong classes are less wrong.
    """

    weight: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    temperature: Annotated[float, Above(0)] = 2.0

    def check(self, model):
        """Refuse a model that does not label whole texts."""
        if self.weight:
            check_labels_texts('Distillation', model)

    def __call__(self, loss, inputs):
        """Return the loss; see `of_prediction`."""
        return super().__call__(loss, inputs) if self.weight else loss(inputs)

    def of_prediction(self, loss, prediction, inputs):
        """Return the loss; the metric `teacher_divergence` is the mean of KL per text that has a teacher."""
        value, metrics = loss.of_prediction(prediction, inputs)
        if not self.weight:
            return value, metrics
        batch, T = inputs.batch, self.temperature
        if 'teacher_scores' not in batch:
            raise UserError('Distillation needs predictions of a teacher in the batch: include gin/methods/distil.gin.')
        weights = batch['label_weights'].astype(jnp.float32) * batch['teacher_weights']
        teacher, student = (prediction.replace(scores=x / T) for x in (batch['teacher_scores'], prediction.scores))
        taught = inputs.replace(batch=batch | {'label_weights': weights})
        divergence, _ = loss.divergences(teacher, student, taught)
        value = (1 - self.weight) * value + self.weight * T**2 * divergence
        return value, metrics | {'teacher_divergence': Ratio(divergence, weights.sum())}
