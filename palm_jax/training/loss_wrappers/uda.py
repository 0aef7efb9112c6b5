"""Unsupervised data augmentation (Xie et al., arXiv 1904.12848): predictions that a changed text keeps."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, AtMost, checked
from palm_jax.models.kernels.divergence import divergences
from palm_jax.models.saturation import limited, tempered
from palm_jax.training.loss_wrappers.unlabelled import Unlabelled

Schedule = Literal['linear', 'exp', 'log']


@checked
@dataclasses.dataclass(frozen=True)
class UDA(Unlabelled):
    """L + λ·1/U·Σ 1[max p(x) ≥ β]·KL(p(x)^{1/T} / Z ‖ p(A(x))), A(x) the changed text.

    With a schedule of trust (TSA), labelled texts whose class has a probability above η(t) are left out of L, so that a
    few are not learned by heart: η(t) = a(t)·(1 − 1/K) + 1/K for K classes, with t the share of the steps taken and
    a(t) = t (linear), e^{5(t − 1)} (exp) or 1 − e^{−5t} (log).

    Attributes:
      weight: weight λ (paper: 1); 0 trains without unlabelled texts.
      temperature: temperature T that sharpens the prediction of a text as it is (paper: 0.4 to 1).
      threshold: probability β from which a text counts; 0 counts all.
      schedule: a(t): `linear`, `exp` or `log`; None trains on all labelled texts.
      total_steps: number of steps of the run.
    """

    weight: Annotated[float, AtLeast(0)] = 1.0
    temperature: Annotated[float, Above(0)] = 0.85
    threshold: Annotated[float, AtLeast(0), AtMost(1)] = 0.0
    schedule: Schedule | None = None
    total_steps: Annotated[int, AtLeast(1)] = 1000

    def of_texts(self, weak_UC, strong_UC):
        """Return the divergences of the changed texts' predictions from the sharpened ones."""
        confident_U = jax.nn.softmax(weak_UC, axis=-1).max(axis=-1) >= self.threshold
        sharp_UC = jax.nn.log_softmax(tempered(weak_UC, self.temperature), axis=-1)
        loss_U, _ = divergences(sharp_UC, jax.nn.log_softmax(limited(strong_UC), axis=-1))
        return jnp.where(confident_U, loss_U, 0.0), confident_U

    def supervised(self, loss, inputs):
        """Return L; with a schedule, its mean over the texts that are left, times the number of all."""
        if self.schedule is None:
            return loss(inputs)
        prediction, labels = loss.predict(inputs), inputs.batch['labels']
        p_BC = jax.nn.softmax(jax.lax.stop_gradient(prediction.scores), axis=-1)
        p_B = jnp.take_along_axis(p_BC, labels[:, None], axis=-1)[:, 0]
        weights_B = inputs.batch['label_weights'].astype(jnp.float32)
        kept_B = weights_B * (p_B <= self.trust_at(inputs.step, p_BC.shape[-1]))
        kept = kept_B.sum()
        scale = weights_B.sum() / jnp.where(kept > 0, kept, 1.0)
        value, _ = loss.of_prediction(
            prediction, inputs.replace(batch=inputs.batch | {'label_weights': kept_B * scale})
        )
        _, metrics = loss.of_prediction(prediction, inputs)
        return value, metrics

    def trust_at(self, step, num_classes: int):
        """Return η after a number of steps."""
        t = step / self.total_steps
        a = t
        if self.schedule != 'linear':
            a = jnp.exp(5 * (t - 1)) if self.schedule == 'exp' else 1 - jnp.exp(-5 * t)
        return a * (1 - 1 / num_classes) + 1 / num_classes
