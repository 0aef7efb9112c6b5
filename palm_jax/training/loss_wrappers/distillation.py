"""Distillation of a teacher's predictions (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, AtMost, checked
from palm_jax.errors import UserError
from palm_jax.models.kernels.divergence import top_k_divergence
from palm_jax.models.saturation import tempered
from palm_jax.training.loss_wrappers.of_texts import check_labels_texts
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.losses import gathered_output_matrix
from palm_jax.training.metrics import Ratio

_CHUNK_LENGTH = 32  # positions whose logits exist at the same time


@checked
@dataclasses.dataclass(frozen=True)
class Distillation(LossWrapper):
    """(1 − α)·L + α·T²·KL(p_T ‖ p_S), both softened: p = softmax(scores / T).

    The teacher's scores are in the batch, see `data.supervised.teacher.TeacherPredictions`; for label sets the
    divergence is that of each label. Of tokens, the batch has the teacher's likeliest ones, softened already, see
    `data.supervised.token_teacher.TokenTeacher`; the others are one more outcome. A text without a prediction of the
    teacher has L alone.

    Attributes:
      weight: share α of the teacher; 0 trains without it, 1 without the labels.
      temperature: temperature T; higher ones also teach which wrong classes are less wrong.
    """

    weight: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    temperature: Annotated[float, Above(0)] = 2.0

    def check(self, model):
        """Refuse a model that tags words."""
        if self.weight and model.head is not None:
            check_labels_texts('Distillation', model)

    def __call__(self, loss, inputs):
        """Return the loss; see `of_prediction`."""
        return super().__call__(loss, inputs) if self.weight else loss(inputs)

    def of_prediction(self, loss, prediction, inputs):
        """Return the loss; the metric `teacher_divergence` is the mean of KL per text or target that has a teacher."""
        value, metrics = loss.of_prediction(prediction, inputs)
        if not self.weight:
            return value, metrics
        if 'decoder_teacher_ids' in inputs.batch:
            divergence, count = self._of_tokens(prediction, inputs)
        else:
            divergence, count = self._of_scores(loss, prediction, inputs)
        value = (1 - self.weight) * value + self.weight * self.temperature**2 * divergence
        return value, metrics | {'teacher_divergence': Ratio(divergence, count)}

    def _of_scores(self, loss, prediction, inputs):
        """The sum of KL over texts that have a teacher, and the sum of their weights."""
        batch = inputs.batch
        if 'teacher_scores' not in batch:
            raise UserError(
                'Distillation needs predictions of a teacher in the batch: include gin/methods/distil.gin, or for '
                'generated text gin/methods/distil_tokens.gin.'
            )
        weights = batch['label_weights'].astype(jnp.float32) * batch['teacher_weights']
        both = (tempered(x, self.temperature) for x in (batch['teacher_scores'], prediction.scores))
        teacher, student = (prediction.replace(scores=x) for x in both)
        divergence, _ = loss.divergences(teacher, student, inputs.replace(batch=batch | {'label_weights': weights}))
        return divergence, weights.sum()

    def _of_tokens(self, h_BLD, inputs):
        """The sum of KL over targets that have a teacher, and the sum of their weights."""
        batch, model = inputs.batch, inputs.model
        weights = batch['decoder_loss_weights'].astype(jnp.float32) * batch['decoder_teacher_weights']
        divergence = top_k_divergence(
            h_BLD,
            gathered_output_matrix(inputs.params, h_BLD.dtype),
            batch['decoder_teacher_ids'],
            batch['decoder_teacher_log_p'],
            weights,
            model.arch.output_scale / self.temperature,
            _CHUNK_LENGTH,
            skip_unweighted=True,
        )
        return divergence, weights.sum()
