"""R-Drop (Liang et al., arXiv 2106.14448): two dropout masks, and predictions that agree."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, checked
from palm_jax.errors import UserError
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.metrics import Ratio


@checked
@dataclasses.dataclass(frozen=True)
class RDrop(LossWrapper):
    """½·(L₁ + L₂) + α·½·(KL(p₁ ‖ p₂) + KL(p₂ ‖ p₁)), p₁ and p₂ predicted with different dropout masks.

    Both come from one pass over the batch with every row twice. The divergence is that of the task's own prediction:
    of a class, of every label, of every token, or, for numbers, the squared difference.

    Attributes:
      alpha: weight α of the divergence (paper: 5 for translation, 1 for language models, 0.1 to 1 for
        classification); 0 trains with one pass and without a divergence.
    """

    stage = 1
    alpha: Annotated[float, AtLeast(0)] = 1.0

    def check(self, model):
        """Refuse a model without dropout, whose two predictions are equal."""
        if self.alpha and not model.has_dropout:
            raise UserError('R-Drop compares two dropout masks, and this run has none: set --gin.DROPOUT_RATE=0.1.')

    def rows(self, inner, row):
        """Return every row twice."""
        return inner.times(2) if self.alpha else inner

    def __call__(self, loss, inputs):
        """Return the loss; the metric `divergence` is the mean of both divergences per target."""
        if not self.alpha:
            return loss(inputs)
        doubled = inputs.replace(batch={name: jnp.repeat(x, 2, axis=0) for name, x in inputs.batch.items()})
        prediction = loss.predict(doubled)
        value, metrics = loss.of_prediction(prediction, doubled)
        value, metrics = jax.tree.map(lambda x: x / 2, (value, metrics))
        first, second = (jax.tree.map(lambda x, i=i: x.reshape(-1, 2, *x.shape[1:])[:, i], prediction) for i in (0, 1))
        divergence = sum(loss.divergences(first, second, inputs)) / 2
        return value + self.alpha * divergence, metrics | {'divergence': Ratio(divergence, metrics['loss'].count)}
