"""Losses of a head's scores: one class, several labels, a number, or a class besides the tokens."""

from __future__ import annotations

import abc
import dataclasses
from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from palm_jax.bounds import AtLeast, Rate, Weight, checked
from palm_jax.models.kernels.divergence import divergences
from palm_jax.models.model import Model
from palm_jax.models.saturation import limited, log_one_minus_p, square
from palm_jax.training.losses import LanguageModelLoss, features_of, outputs_of
from palm_jax.training.metrics import Metrics, Ratio

Batch = dict[str, jax.Array]


def scores_of(
    model: Model, params: Any, batch: dict[str, jax.Array], dropout_rng: jax.Array | None = None
) -> jax.Array:
    """Return the head's scores of a batch, float32 [B, C] or [B, L, C], with dropout if a key is given."""
    return outputs_of('scores', model, params, batch, dropout_rng)


@flax.struct.dataclass
class ScoredFeatures:
    """The prediction of a head.

    Attributes:
      scores: scores of the head, float32 [B, C] or [B, L, C].
      features: features that they were computed from, [B, L, D].
    """

    scores: jax.Array
    features: jax.Array


class HeadLoss(abc.ABC):
    """A loss of a head's scores.

    The batch's `label_weights` weigh the examples: 0 ignores an example, other values may balance the classes.
    """

    def __call__(
        self, model: Model, params: Any, batch: Batch, dropout_rng: jax.Array | None = None
    ) -> tuple[jax.Array, Metrics]:
        """Return the weighted *sum* of the loss, and the metrics `loss` and `accuracy`; see `LanguageModelLoss`."""
        return self.of_scores(scores_of(model, params, batch, dropout_rng), batch)

    @abc.abstractmethod
    def of_scores(self, scores: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Return the same as `__call__`, from scores that were computed before."""

    @abc.abstractmethod
    def divergences_of_scores(self, p: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return KL(p ‖ q) and KL(q ‖ p) of each example's predictions, [B] or [B, L] in nats, from two scores."""

    def predict(self, model: Model, params: Any, batch: Batch, dropout_rng: jax.Array | None = None) -> ScoredFeatures:
        """Return what `of_prediction` computes the loss from; see `loss_wrappers.wrapper.Loss`."""
        h_BLD = features_of(model, params, batch, dropout_rng)
        return ScoredFeatures(_scores_of_features(model, params, batch, dropout_rng, h_BLD), h_BLD)

    def of_prediction(
        self, prediction: ScoredFeatures, model: Model, params: Any, batch: Batch
    ) -> tuple[jax.Array, Metrics]:
        """Return the same as `__call__`, from the result of `predict`."""
        del model, params
        return self.of_scores(prediction.scores, batch)

    def divergences(
        self, p: ScoredFeatures, q: ScoredFeatures, model: Model, params: Any, batch: Batch, p_params: Any = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return KL(p ‖ q) and KL(q ‖ p) of two predictions, weighted sums over the examples."""
        del model, params, p_params
        weights = batch['label_weights'].astype(jnp.float32)
        p_to_q, q_to_p = self.divergences_of_scores(p.scores, q.scores)
        return (p_to_q * weights).sum(), (q_to_p * weights).sum()

    def likelihood(self) -> HeadLoss:
        """Return the loss that is −log p(label) alone, as far as label smoothing and focus are concerned."""
        return self

    @abc.abstractmethod
    def sampled_labels(self, scores: jax.Array, rng: jax.Array) -> jax.Array:
        """Return labels that are drawn from the distribution that scores describe."""

    def with_sampled_targets(
        self, prediction: ScoredFeatures, model: Model, params: Any, batch: Batch, rng: jax.Array
    ) -> Batch:
        """Return the batch with labels that are drawn from a prediction."""
        del model, params
        return batch | {'labels': self.sampled_labels(prediction.scores, rng)}


@checked
@dataclasses.dataclass(frozen=True)
class ClassLoss(HeadLoss):
    """Cross-entropy of one class among C, for texts ([B]) or tokens ([B, L]).

    Attributes:
      label_smoothing: ε of the target distribution (1 − ε)·onehot + ε / C (Szegedy et al., arXiv 1512.00567).
      focal_gamma: γ of the focal loss (1 − p)^γ·(−log p), which emphasizes wrong predictions (Lin et al.,
        arXiv 1708.02002); 0 gives cross-entropy.
    """

    label_smoothing: Rate = 0.0
    focal_gamma: Annotated[float, AtLeast(0)] = 0.0

    def of_scores(self, scores, batch):
        """Return the weighted sum of the loss, and the metrics `loss` and `accuracy`."""
        labels, weights, scores = batch['labels'], batch['label_weights'], limited(scores)
        log_p = jax.nn.log_softmax(scores, axis=-1)
        target = optax.smooth_labels(jax.nn.one_hot(labels, scores.shape[-1]), self.label_smoothing)
        focus = jnp.exp(self.focal_gamma * log_one_minus_p(scores)) if self.focal_gamma else 1.0
        loss = -jnp.where(target > 0, target * focus * log_p, 0.0).sum(axis=-1)
        correct = (scores.argmax(axis=-1) == labels).astype(jnp.float32)
        return _weighed(loss, weights, accuracy=correct)

    def divergences_of_scores(self, p, q):
        """Return the divergences of the class."""
        return divergences(*(jax.nn.log_softmax(limited(x), axis=-1) for x in (p, q)))

    def likelihood(self):
        """Return the cross-entropy."""
        return ClassLoss()

    def sampled_labels(self, scores, rng):
        """Return classes drawn with their probabilities."""
        return jax.random.categorical(rng, scores, axis=-1)


@dataclasses.dataclass(frozen=True)
class LabelsLoss(HeadLoss):
    """Binary cross-entropy of C labels, each of which holds or not: `labels` [B, C] in {0, 1}."""

    def of_scores(self, scores, batch):
        """Return the same as `ClassLoss`; the loss is the mean over labels, `accuracy` counts exact matches."""
        labels, scores = batch['labels'], limited(scores)
        loss = optax.sigmoid_binary_cross_entropy(scores, labels).mean(axis=-1)
        exact = jnp.all((scores > 0) == (labels > 0.5), axis=-1).astype(jnp.float32)
        return _weighed(loss, batch['label_weights'], accuracy=exact)

    def divergences_of_scores(self, p, q):
        """Return the divergences of whether a label holds, a mean over labels."""
        both = (jax.nn.log_sigmoid(jnp.stack([x, -x], axis=-1)) for x in map(limited, (p, q)))
        p_to_q, q_to_p = divergences(*both)
        return p_to_q.mean(axis=-1), q_to_p.mean(axis=-1)

    def sampled_labels(self, scores, rng):
        """Return for each label whether it holds, drawn with its probability."""
        return jax.random.bernoulli(rng, jax.nn.sigmoid(scores)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class NumberLoss(HeadLoss):
    """Squared error of a number: `labels` float32 [B]."""

    def of_scores(self, scores, batch):
        """Return the same as `ClassLoss`, with the metric `absolute_error` for `accuracy`."""
        error = scores[:, 0] - batch['labels']
        return _weighed(square(error), batch['label_weights'], absolute_error=jnp.abs(limited(error)))

    def divergences_of_scores(self, p, q):
        """Return the squared difference, twice: the loss is that of a normal distribution of variance ½."""
        difference = square(p - q)[:, 0]
        return difference, difference

    def sampled_labels(self, scores, rng):
        """Return numbers drawn from the normal distribution of variance ½ around the scores."""
        return scores[:, 0] + jax.random.normal(rng, scores.shape[:1]) * 0.5**0.5


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
    label_weight: Weight = 38.0

    def __call__(self, model, params, batch, dropout_rng=None):
        """Return the same as `LanguageModelLoss`; the batch also needs `labels` and `label_weights`."""
        h_BLD = features_of(model, params, batch, dropout_rng)
        token_loss, metrics = self.tokens.of_features(h_BLD, model, params, batch)
        scores_BC = _scores_of_features(model, params, batch, dropout_rng, h_BLD)
        label_loss, of_label = self.label.of_scores(scores_BC, batch)
        metrics |= {f'label_{name}': ratio for name, ratio in of_label.items()}
        return token_loss + self.label_weight * label_loss, metrics


def _scores_of_features(
    model: Model, params: Any, batch: Batch, dropout_rng: jax.Array | None, h_BLD: jax.Array
) -> jax.Array:
    """Scores of the head from features; the other arguments are those of `scores_of`."""
    return model.apply(
        {'params': params},
        h_BLD,
        batch['decoder_segment_ids'],
        dropout_rng is None,
        rngs=None if dropout_rng is None else {'dropout': dropout_rng},
        method=lambda palm, *inputs: palm.head(*inputs),
    )


def _weighed(loss: jax.Array, weights: jax.Array, **others: jax.Array) -> tuple[jax.Array, Metrics]:
    """Return the weighted sum of the loss, and all metrics as ratios of sums."""
    weights = weights.astype(jnp.float32)
    count, total = weights.sum(), (loss * weights).sum()
    return total, {'loss': Ratio(total, count)} | {
        name: Ratio((value * weights).sum(), count) for name, value in others.items()
    }
