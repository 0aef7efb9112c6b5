"""The semantic loss of rules about labels (Xu et al., arXiv 1711.11157)."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax.numpy as jnp

from palm_jax.bounds import AtLeast, checked
from palm_jax.training.loss_wrappers.rules import check_has_labels, row_weights, violations
from palm_jax.training.loss_wrappers.wrapper import LossWrapper
from palm_jax.training.metrics import Ratio
from palm_jax.training.rule_inference import NEVER, hard, log_normalizer, log_probabilities


@checked
@dataclasses.dataclass(frozen=True)
class SemanticLoss(LossWrapper):
    """L + λ·(−log Σ_{y ⊨ α} p(y)): the probability of labels that keep all rules α is raised, whichever they are.

    It is exact: a sum over classes, over the sets of labels that rules mention, p(y) = Π p_i·Π (1 − p_j), or over all
    sequences of tags. A rule is kept where it is wholly true; its own weight does not count. A row for which no labels
    keep all rules has none of this loss.

    Attributes:
      weight: weight λ; 0 trains without rules.
    """

    weight: Annotated[float, AtLeast(0)] = 0.5

    def check(self, model):
        """Refuse a model that generates text."""
        if self.weight:
            check_has_labels('SemanticLoss', model)

    def __call__(self, loss, inputs):
        """Return the loss; see `of_prediction`."""
        return super().__call__(loss, inputs) if self.weight else loss(inputs)

    def of_prediction(self, loss, prediction, inputs):
        """Return the loss.

        Further metrics are `rule_violations`, the share of the rows whose prediction breaks a rule, and
        `semantic_loss`, the mean of −log Σ p(y) per row.
        """
        value, metrics = loss.of_prediction(prediction, inputs)
        if not self.weight:
            return value, metrics
        batch = inputs.batch
        log_kept = log_normalizer(log_probabilities(prediction.scores, batch), batch, hard)
        can_keep, weights = log_kept > NEVER / 2, row_weights(batch)
        of_rules = (weights * jnp.where(can_keep, -log_kept, 0.0)).sum()
        value = value + self.weight * of_rules
        return value, metrics | violations(prediction.scores, batch) | {'semantic_loss': Ratio(of_rules, weights.sum())}
