"""Posterior regularization by rules about labels (Ganchev et al. 2010; Hu et al., arXiv 1603.06318)."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, AtMost, Below, checked
from palm_jax.training.loss_wrappers.rules import check_has_labels, violations
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.metrics import Ratio
from palm_jax.training.rule_inference import log_probabilities, marginals, weighed


@checked
@dataclasses.dataclass(frozen=True)
class PosteriorRegularization(LossWrapper):
    """(1 − π_t)·L + π_t·CE(q, p), q(y) ∝ p(y)·exp(−C·Σ_l λ_l·(1 − r_l(x, y))).

    q is the distribution nearest to the model's that keeps the rules, computed exactly in every step and without a
    gradient: over classes, over the sets of labels that rules mention, or over all sequences of tags, by the forward
    algorithm. π_t = min(π, 1 − α^t) after t epochs, so that a model imitates it once it has learned something.

    Attributes:
      weight: largest share π of q; 0 trains without rules.
      strength: strength C of the rules.
      decay: α of the share's growth (paper: 0.95); 0 has the whole share from the first step on.
      steps_per_epoch: number of steps of an epoch t.
    """

    weight: Annotated[float, AtLeast(0), AtMost(1)] = 0.9
    strength: Annotated[float, Above(0)] = 6.0
    decay: Annotated[float, AtLeast(0), Below(1)] = 0.95
    steps_per_epoch: Annotated[int, AtLeast(1)] = 100

    def check(self, model):
        """Refuse a model that generates text."""
        if self.weight:
            check_has_labels('PosteriorRegularization', model)

    def __call__(self, loss, inputs):
        """Return the loss; see `of_prediction`."""
        return super().__call__(loss, inputs) if self.weight else loss(inputs)

    def share_at(self, step: jax.Array) -> jax.Array:
        """Return π_t after a number of steps."""
        epochs = jnp.maximum(step / self.steps_per_epoch, 1e-9)  # a decay of 0 to the power of 0 would be 1
        return jnp.minimum(self.weight, 1 - self.decay**epochs)

    def of_prediction(self, loss, prediction, inputs):
        """Return the loss.

        Further metrics are `rule_violations`, the share of the rows whose prediction breaks a rule, and
        `rule_divergence`, the mean of KL(q ‖ p) per label.
        """
        value, metrics = loss.of_prediction(prediction, inputs)
        if not self.weight:
            return value, metrics
        batch = inputs.batch
        log_p = log_probabilities(prediction.scores, batch)
        q = marginals(log_p, batch, weighed(self.strength))
        cross_entropy, entropy = -(q * log_p).sum(axis=-1), -jax.scipy.special.xlogy(q, q).sum(axis=-1)
        if 'rule_labels' in batch:  # a mean over labels, as the loss is
            cross_entropy, entropy = cross_entropy.mean(axis=-1), entropy.mean(axis=-1)
        weights = batch['label_weights'].astype(jnp.float32)
        share = self.share_at(inputs.step)
        value = (1 - share) * value + share * (weights * cross_entropy).sum()
        divergence = Ratio((weights * (cross_entropy - entropy)).sum(), metrics['loss'].count)
        return value, metrics | violations(prediction.scores, batch) | {'rule_divergence': divergence}
