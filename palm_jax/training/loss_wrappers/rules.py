"""What methods with rules about labels share: the rows that count, and how many of them break a rule."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from palm_jax.errors import UserError
from palm_jax.models.model import Model
from palm_jax.training.loss_wrappers.wrapper import Batch
from palm_jax.training.metrics import Metrics, Ratio
from palm_jax.training.rule_inference import broken


def check_has_labels(name: str, model: Model) -> None:
    """Refuse a model without a head.

    Args:
      name: name of the method, for the message.
      model: model of the run.

    Raises:
      UserError: the model generates text.
    """
    if model.head is None:
        raise UserError(
            f'{name} has rules about labels: add --gin_file=gin/heads/classification.gin, multilabel.gin or '
            'tagging.gin, not a model that generates text.'
        )


def row_weights(batch: Batch) -> jax.Array:
    """Return a weight for every row, float32 [B]: that of its label; for tags 1 where any word counts."""
    weights = batch['label_weights'].astype(jnp.float32)
    return (weights > 0).any(axis=1).astype(jnp.float32) if weights.ndim > 1 else weights


def violations(scores: jax.Array, batch: Batch) -> Metrics:
    """Return the metric `rule_violations`, the share of the rows whose prediction breaks a rule."""
    counts = (row_weights(batch) > 0).astype(jnp.float32)
    return {'rule_violations': Ratio((broken(scores, batch) * counts).sum(), counts.sum())}
