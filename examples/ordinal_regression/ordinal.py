"""Ordinal regression as a head of one's own: nothing in the package knows of it.

Labels with an order (one to five stars; mild, moderate, severe) are neither classes, for which every confusion is
equally wrong, nor numbers, for which the steps between them are equally large. CORAL (Cao, Mirjalili and Raschka, "Rank
consistent ordinal regression for neural networks", arXiv 1901.07884) learns K - 1 thresholds on one score:

    P(y > r_k) = σ(w·h + b_k),  k = 1 .. K - 1

Run from the root of the repository, on a table with a text and a label in every row:

    palm-jax train --gin_file=gin/finetune_lora.gin --gin_file=examples/ordinal_regression/ordinal_regression.gin \
        --gin.TRAIN_FILES=reviews.csv --gin.LABELS="['bad', 'fair', 'good']" --gin.MODEL_DIR=runs/reviews
    palm-jax eval --gin_file=runs/reviews/config.gin --trust_modules=examples.ordinal_regression
    palm-jax infer --gin_file=runs/reviews/config.gin --trust_modules=examples.ordinal_regression \
        --input=reviews.csv --output=rated.jsonl
    palm-jax serve --model=runs/reviews --trust_modules=examples.ordinal_regression

The configuration of the run names this module; `--trust_modules` says that its code may be executed (docs/trust.md).

Three parts are new: the kind of label, the head and the loss. The data, the reporter and the predictor are those of
every head that labels texts; they ask the kind of label. `ordinal_regression.gin` joins them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.metrics import cohen_kappa_score

from palm_jax.labels.label_kind import Evaluation, Margin, class_id, rank_by_probability, top_probabilities
from palm_jax.labels.single_label import SingleLabel, report_of_classes, table_of_classes
from palm_jax.metrics import statistics
from palm_jax.models.heads import pool
from palm_jax.training.head_losses import scores_of
from palm_jax.training.metrics import Ratio


@dataclasses.dataclass(frozen=True)
class OrdinalLabel(SingleLabel):
    """One class among K whose names, LABELS, are given from the lowest to the highest rank.

    It is encoded as its rank, int32 []; the K - 1 scores are the logits of P(y > r_k). Its prediction is a dict of
    `predicted`, the highest rank whose threshold is exceeded with a probability above 0.5, and `probabilities`.
    """

    def num_scores(self, num_classes: int) -> int:
        """Return K - 1."""
        return num_classes - 1

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return P(y = r_k) = P(y > r_(k-1)) - P(y > r_k), [..., K]; negative differences count as 0."""
        above = 1 / (1 + np.exp(-np.asarray(scores, np.float64)))
        edge = np.ones((*above.shape[:-1], 1))
        p = np.maximum(-np.diff(np.concatenate([edge, above, 0 * edge], axis=-1), axis=-1), 0)
        return p / p.sum(axis=-1, keepdims=True)

    def combine(self, scores: Sequence[np.ndarray]) -> np.ndarray:
        """Return the log-odds, of a rank above each, of the mean probabilities."""
        tiny = np.finfo(np.float64).eps
        p = np.clip(np.mean([1 / (1 + np.exp(-np.asarray(s, np.float64))) for s in scores], axis=0), tiny, 1 - tiny)
        return np.log(p) - np.log1p(-p)

    def evaluate(self, scores_ES: np.ndarray, labels_E: np.ndarray, names: Sequence[str]) -> Evaluation:
        """Return accuracy, the mean error in ranks and Cohen's quadratically weighted kappa."""
        p_EK, predicted_E = self.probabilities(scores_ES), _rank(scores_ES)
        error_E = np.abs(predicted_E - labels_E)
        return Evaluation(
            metrics={
                'accuracy': statistics.accuracy(labels_E, predicted_E),
                'absolute_error': float(error_E.mean()),
                'quadratic_kappa': float(cohen_kappa_score(labels_E, predicted_E, weights='quadratic')),
            },
            interval=statistics.interval(
                len(labels_E), lambda rows: statistics.accuracy(labels_E[rows], predicted_E[rows])
            ),
            predictions=[
                {'label': names[label], 'predicted': names[rank], 'probabilities': top_probabilities(names, p_K)}
                for label, rank, p_K in zip(labels_E, predicted_E, p_EK, strict=True)
            ],
            badness=np.where(error_E > 0, error_E, -np.inf),
            tables={'Classes': table_of_classes(labels_E, predicted_E, names)},
            confusion=(labels_E, predicted_E),
            text=report_of_classes(labels_E, predicted_E, names),
        )

    def predict(self, scores_S: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        """Return the predicted rank's name, and the probability of each."""
        probabilities = rank_by_probability(names, self.probabilities(scores_S))
        return {'predicted': names[int(_rank(scores_S))], 'probabilities': probabilities}

    def margin(self, scores_S: np.ndarray, names: Sequence[str], label: str | None = None) -> Margin:
        """Return the log-odds of P(y > r_k) for the highest threshold that the label exceeds, else for the lowest."""
        rank = int(_rank(scores_S)) if label is None else class_id(names, label)
        return Margin(f'above {names[max(rank - 1, 0)]}', max(rank - 1, 0))

    def to_json(self, prediction: dict[str, Any]) -> dict[str, Any]:
        """Return the prediction."""
        return prediction

    def to_response(self, prediction: dict[str, Any]) -> dict[str, Any]:
        """Return the predicted rank's name as `label` and as the only one of `labels`."""
        label = prediction['predicted']
        return {'label': label, 'labels': [label], 'probabilities': prediction['probabilities']}


def _rank(scores: np.ndarray) -> np.ndarray:
    """Return the number of thresholds that are exceeded, int [...]."""
    return (np.asarray(scores) > 0).sum(axis=-1)


class CoralHead(nn.Module):
    """One linear map of the pooled features, and a bias per threshold.

    Attributes:
      num_outputs: K - 1 thresholds.
      pooling: see `palm_jax.models.heads.Head`.
      dropout_rate: dropout on the pooled features.
    """

    num_outputs: int
    pooling: str = 'mean'
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, h_BLD: jax.Array, segment_ids_BL: jax.Array, deterministic: bool = True) -> jax.Array:
        """Return the logits of P(y > r_k), float32 [B, K - 1]; arguments as in `palm_jax.models.heads.Head`."""
        D = h_BLD.shape[-1]
        x_BD = pool(h_BLD.astype(jnp.float32), segment_ids_BL, self.pooling)
        x_BD = nn.Dropout(self.dropout_rate, deterministic=deterministic)(x_BD)
        init = nn.with_logical_partitioning(nn.initializers.normal(stddev=D**-0.5), ('embed', None))
        kernel_D1 = self.param('kernel', init, (D, 1), jnp.float32)
        init = nn.with_logical_partitioning(nn.initializers.zeros, ('classes',))
        bias_S = self.param('bias', init, (self.num_outputs,), jnp.float32)
        return x_BD @ kernel_D1 + bias_S


@dataclasses.dataclass(frozen=True)
class OrdinalLoss:
    """Binary cross-entropy of the K - 1 questions whether a label is above rank k, summed over k (equation 4)."""

    def __call__(self, model, params, batch, dropout_rng=None):
        """Return the weighted *sum* of the loss, and the metrics `loss`, `accuracy` and `absolute_error` (in ranks).

        `labels` are ranks, int32 [B]; `label_weights` float32 [B].
        """
        scores_BS = scores_of(model, params, batch, dropout_rng)
        labels_B, weights_B = batch['labels'], batch['label_weights'].astype(jnp.float32)
        is_above_BS = (labels_B[:, None] > jnp.arange(scores_BS.shape[-1])).astype(jnp.float32)
        loss_B = optax.sigmoid_binary_cross_entropy(scores_BS, is_above_BS).sum(axis=-1)
        error_B = jnp.abs((scores_BS > 0).sum(axis=-1) - labels_B)
        values = {'loss': loss_B, 'accuracy': (error_B == 0).astype(jnp.float32), 'absolute_error': error_B}
        metrics = {name: Ratio((value * weights_B).sum(), weights_B.sum()) for name, value in values.items()}
        return metrics['loss'].total, metrics
