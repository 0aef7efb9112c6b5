"""On-policy distillation (generalized knowledge distillation, Agarwal et al., arXiv 2306.13649)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, AtMost, checked
from palm_jax.errors import UserError
from palm_jax.models.kernels.divergence import generalized_jsd
from palm_jax.training.loss_wrappers.wrapper import Batch, LossInputs, LossWrapper
from palm_jax.training.losses import features_of, gathered_output_matrix
from palm_jax.training.metrics import Ratio, one
from palm_jax.training.teachers import Teacher

_CHUNK_LENGTH = 32  # positions whose logits exist at the same time
_NOT_FOR_LABELS = (
    'GKD is for models that generate text: --gin_file=gin/heads/text_to_text.gin or dialogue.gin. For labels take '
    '--gin_file=gin/methods/distil.gin.'
)
Share = Annotated[float, AtLeast(0), AtMost(1)]


@checked
@dataclasses.dataclass(frozen=True)
class GKD(LossWrapper):
    """(1 − α)·L + α·JSD_β(p_T ‖ p_S), in a share λ of steps on sequences that the student has generated itself.

    JSD_β(P ‖ Q) = β·KL(P ‖ M) + (1 − β)·KL(Q ‖ M), M = β·P + (1 − β)·Q, the mean over targets; β = 0 is KL(P ‖ Q) and
    β = 1 is KL(Q ‖ P), as in TRL. The targets are those of the batch or, in a share λ of steps, samples of the student
    as it is, without a gradient through the sampling. L is always that of the batch.

    Attributes:
      weight: share α of the divergence; 0 trains without the teacher, 1 learns from it alone.
      share: share λ of steps on the student's own samples; 0 is distillation on the batch.
      beta: β between forward (0) and reverse (1) divergence.
      temperature: temperature of both distributions in the divergence.
      teacher: model that is learned from.
      sampler: replaces the targets of a batch by samples: (model, params, batch, rng) to a batch, see
        `inference.rollout.Rollout`.
    """

    stage = 3
    weight: Share = 1.0
    share: Share = 0.5
    beta: Share = 0.5
    temperature: Annotated[float, Above(0)] = 1.0
    teacher: Teacher = Teacher()
    sampler: Callable[[Any, Any, Batch, jax.Array], Batch] | None = None

    def teachers(self):
        """Return the teacher; none at a weight of 0."""
        return (self.teacher,) if self.weight else ()

    def rows(self, inner, row):
        """Return those of the batch, and those that the divergence is of."""
        return inner.plus(at_once=1, in_all=1) if self.weight else inner

    def check(self, model):
        """Refuse a model that does not generate text."""
        if self.weight and model.head is not None:
            raise UserError(_NOT_FOR_LABELS)
        if self.weight and self.share and self.sampler is None:
            raise UserError('GKD samples from the student: include gin/methods/gkd.gin, or set GKD_SHARE to 0.')

    def __call__(self, loss, inputs):
        """Return the loss.

        Further metrics: `teacher_divergence`, the mean JSD_β per target; and `on_policy`, whether the student has
        written the targets.
        """
        if not self.weight:
            return loss(inputs)
        value, metrics = loss(inputs)
        if 'decoder_loss_weights' not in inputs.batch:  # embeddings need no head either
            raise UserError(_NOT_FOR_LABELS)
        is_own, batch = self._batch(inputs)
        total = self._divergence(loss, inputs.replace(batch=batch))
        count = batch['decoder_loss_weights'].astype(jnp.float32).sum()
        mean = total / jnp.where(count > 0, count, 1.0)
        divergence = self.weight * mean * metrics['loss'].count
        value = divergence if self.weight == 1 else (1 - self.weight) * value + divergence
        return value, metrics | {'teacher_divergence': Ratio(total, count), 'on_policy': one(is_own)}

    def _batch(self, inputs: LossInputs) -> tuple[jax.Array, Batch]:
        """Return whether the student writes, float32 [], and the batch of the divergence."""
        choice_rng, sample_rng = jax.random.split(jax.random.fold_in(inputs.rng, 3))
        is_own = jax.random.uniform(choice_rng) < self.share

        def own() -> Batch:
            assert self.sampler is not None, '`check` refuses it'
            return self.sampler(inputs.model, inputs.params, inputs.batch, sample_rng)

        if self.share in (0, 1):
            return jnp.float32(self.share), own() if self.share else inputs.batch
        return is_own.astype(jnp.float32), jax.lax.cond(is_own, own, lambda: inputs.batch)

    def _divergence(self, loss: Any, inputs: LossInputs) -> jax.Array:
        """Return the sum of JSD_β over the targets of the batch."""
        arch, params = inputs.model.arch, inputs.teachers[self.teacher.path]
        model = self.teacher.model(arch)
        student = loss.predict(inputs), gathered_output_matrix(inputs.params, arch.dtype)
        teacher = features_of(model, params, inputs.batch), gathered_output_matrix(params, arch.dtype)
        return generalized_jsd(
            *(*jax.lax.stop_gradient(teacher), *student),
            weights_BL=inputs.batch['decoder_loss_weights'].astype(jnp.float32),
            beta=self.beta,
            scales=(model.arch.output_scale / self.temperature, arch.output_scale / self.temperature),
            chunk_length=_CHUNK_LENGTH,
        )
