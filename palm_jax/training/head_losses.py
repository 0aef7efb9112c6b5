"""Losses of a head's scores: one class, several labels, a number, or a class besides the tokens."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from palm_jax.bounds import AtLeast, Rate, checked
from palm_jax.models.model import Model
from palm_jax.training.losses import LanguageModelLoss, features_of
from palm_jax.training.metrics import Metrics, Ratio


def scores_of(
    model: Model, params: Any, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None
) -> jax.Array:
    """Return the head's scores of a batch, float32 [B, C] or [B, L, C], with dropout if a key is given."""
    return model.apply(
        {'params': params},
        batch['decoder_input_tokens'],
        batch.get('decoder_positions'),
        batch['decoder_segment_ids'],
        batch.get('decoder_causal_attention'),
        deterministic=dropout_rng is None,
        rngs=None if dropout_rng is None else {'dropout': dropout_rng},
        method='scores',
    )


@checked
@dataclasses.dataclass(frozen=True)
class ClassLoss:
    """Cross-entropy of one class among C, for texts ([B]) or tokens ([B, L]).

    The batch's `label_weights` weigh the examples: 0 ignores an example, other values may balance the classes.

    Attributes:
      label_smoothing: ε of the target distribution (1 − ε)·onehot + ε / C (Szegedy et al., arXiv 1512.00567).
      focal_gamma: γ of the focal loss (1 − p)^γ·(−log p), which emphasizes wrong predictions (Lin et al.,
        arXiv 1708.02002); 0 gives cross-entropy.
    """

    label_smoothing: Rate = 0.0
    focal_gamma: Annotated[float, AtLeast(0)] = 0.0

    def __call__(
        self, model: Model, params: Any, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None
    ) -> tuple[jax.Array, Metrics]:
        """Return the weighted *sum* of the loss, and the metrics `loss` and `accuracy`; see `LanguageModelLoss`."""
        return self.of_scores(scores_of(model, params, batch, dropout_rng), batch)

    def of_scores(self, scores: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, Metrics]:
        """Return the same as `__call__`, from scores that were computed before."""
        labels, weights = batch['labels'], batch['label_weights']
        log_p = jax.nn.log_softmax(scores, axis=-1)
        target = optax.smooth_labels(jax.nn.one_hot(labels, scores.shape[-1]), self.label_smoothing)
        focus = jnp.exp(self.focal_gamma * _log_one_minus_p(scores)) if self.focal_gamma else 1.0
        loss = -jnp.where(target > 0, target * focus * log_p, 0.0).sum(axis=-1)
        correct = (scores.argmax(axis=-1) == labels).astype(jnp.float32)
        return _weighed(loss, weights, accuracy=correct)


@dataclasses.dataclass(frozen=True)
class LabelsLoss:
    """Binary cross-entropy of C labels, each of which holds or not: `labels` [B, C] in {0, 1}."""

    def __call__(self, model, params, batch, dropout_rng=None):
        """Return the same as `ClassLoss`; the loss is the mean over labels, `accuracy` counts exact matches."""
        scores, labels = scores_of(model, params, batch, dropout_rng), batch['labels']
        loss = optax.sigmoid_binary_cross_entropy(scores, labels).mean(axis=-1)
        exact = jnp.all((scores > 0) == (labels > 0.5), axis=-1).astype(jnp.float32)
        return _weighed(loss, batch['label_weights'], accuracy=exact)


@dataclasses.dataclass(frozen=True)
class NumberLoss:
    """Squared error of a number: `labels` float32 [B]."""

    def __call__(self, model, params, batch, dropout_rng=None):
        """Return the same as `ClassLoss`, with the metric `absolute_error` for `accuracy`."""
        error = scores_of(model, params, batch, dropout_rng)[:, 0] - batch['labels']
        return _weighed(jnp.square(error), batch['label_weights'], absolute_error=jnp.abs(error))


@dataclasses.dataclass(frozen=True)
class TokensAndLabelLoss:
    """The loss of the tokens plus that of their sequence's class, from one pass through the model.

    Attributes:
      tokens: loss of the tokens, which gives the metric `loss`.
      label: loss of the head's class, which gives the metrics `label_loss` and `label_accuracy`.
      label_weight: weight of the loss of a sequence's class relative to the loss of one token; BERT adds two
        means, which is the number of masked tokens of a sequence.
    """

    tokens: LanguageModelLoss = LanguageModelLoss()
    label: ClassLoss = ClassLoss()
    label_weight: float = 38.0

    def __call__(self, model, params, batch, dropout_rng=None):
        """Return the same as `LanguageModelLoss`; the batch also needs `labels` and `label_weights`."""
        h_BLD = features_of(model, params, batch, dropout_rng)
        token_loss, metrics = self.tokens.of_features(h_BLD, model, params, batch)
        scores_BC = model.apply(
            {'params': params},
            h_BLD,
            batch['decoder_segment_ids'],
            dropout_rng is None,
            rngs=None if dropout_rng is None else {'dropout': dropout_rng},
            method=lambda palm, *inputs: palm.head(*inputs),
        )
        label_loss, of_label = self.label.of_scores(scores_BC, batch)
        metrics |= {f'label_{name}': ratio for name, ratio in of_label.items()}
        return token_loss + self.label_weight * label_loss, metrics


def _log_one_minus_p(scores: jax.Array) -> jax.Array:
    """Return log(1 − softmax(scores)), finite with finite gradients where a probability rounds to 1.

    At the largest score it is the log of the other probabilities' sum. With a single class, where that sum is empty,
    it is 0, and so is the loss.
    """
    if scores.shape[-1] == 1:
        return jnp.zeros_like(scores)
    is_largest = jax.nn.one_hot(scores.argmax(axis=-1), scores.shape[-1], dtype=bool)
    of_others = jax.nn.logsumexp(jnp.where(is_largest, -jnp.inf, scores), axis=-1, keepdims=True)
    p_of_others = jnp.where(is_largest, 0.0, jax.nn.softmax(scores, axis=-1))  # at most a half
    return jnp.where(is_largest, of_others - jax.nn.logsumexp(scores, axis=-1, keepdims=True), jnp.log1p(-p_of_others))


def _weighed(loss: jax.Array, weights: jax.Array, **others: jax.Array) -> tuple[jax.Array, Metrics]:
    """Return the weighted sum of the loss, and all metrics as ratios of sums."""
    weights = weights.astype(jnp.float32)
    count, total = weights.sum(), (loss * weights).sum()
    return total, {'loss': Ratio(total, count)} | {
        name: Ratio((value * weights).sum(), count) for name, value in others.items()
    }
