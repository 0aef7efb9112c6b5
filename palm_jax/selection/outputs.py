"""What a strategy reads from a model, a batch at a time: probabilities, features of the head, embeddings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from palm_jax.api import embeddings
from palm_jax.labels.label_kind import LabelKind
from palm_jax.labels.single_label import SingleLabel
from palm_jax.models.heads import pool
from palm_jax.predictors.head_scores import by_length, scores_of_batch
from palm_jax.predictors.tag_predictor import TagPredictor
from palm_jax.training.head_losses import ClassLoss
from palm_jax.training.progress import track

_WINDOW = 32  # batches

Measure = Callable[[np.ndarray], np.ndarray]


class KindWithProbabilities(LabelKind, Protocol):
    """A kind of label that names classes, each with a probability."""

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return the probability of each class, [..., C] in float64."""


def has_probabilities(model: Any) -> bool:
    """Return whether a model predicts probabilities of classes."""
    kind = kind_of(model)
    return kind.has_classes and hasattr(kind, 'probabilities')


def kind_of(model: Any) -> KindWithProbabilities:
    """Return the kind of label of a text, or of each word of a tagger; see `has_probabilities`."""
    return SingleLabel() if isinstance(model.predictor, TagPredictor) else model.data.table.kind


def measured(model: Any, inputs: Sequence[Any], measure: Measure, batch_size: int) -> np.ndarray:
    """Return a measure of the probabilities of each text, float64 [N]; of a tagger the mean over the words.

    Args:
      model: trained model.
      inputs: texts or pairs of texts.
      measure: function of probabilities [..., C] that returns [...].
      batch_size: texts per forward pass.
    """
    kind, found = kind_of(model), np.zeros(len(inputs))
    for batch in _batches(model, inputs, batch_size, 'predicting'):
        scores = np.asarray(scores_of_batch(model.model, model.params, batch.features))[: len(batch.rows)]
        found[batch.rows] = _per_text(measure, kind.probabilities(scores)[None], batch.ends, is_sampled=False)
    return found


def measured_with_dropout(
    model: Any,
    inputs: Sequence[Any],
    measure: Measure,
    num_samples: int,
    dropout_rate: float | None,
    seed: int,
    batch_size: int,
) -> np.ndarray:
    """Return a measure of the probabilities of each text under several dropout masks; see `measured`.

    Args:
      model, inputs, batch_size: see `measured`.
      measure: function of probabilities [S, ..., C] that returns [...].
      num_samples: S, the number of dropout masks.
      dropout_rate: dropout rate of the base; None is that of the run, and 0.1 where the run has no dropout.
      seed: seed of the masks.
    """
    module, kind, found = with_dropout(model.model, dropout_rate), kind_of(model), np.zeros(len(inputs))
    for batch in _batches(model, inputs, batch_size, 'predicting with dropout'):
        key = jax.random.fold_in(jax.random.key(seed), batch.number)
        keys = [jax.random.fold_in(key, s) for s in range(num_samples)]
        samples = [
            np.asarray(scores_of_batch(module, model.params, batch.features, k))[: len(batch.rows)] for k in keys
        ]
        found[batch.rows] = _per_text(measure, kind.probabilities(np.stack(samples)), batch.ends, is_sampled=True)
    return found


def with_dropout(module: Any, rate: float | None) -> Any:
    """Return a model with dropout; see `measured_with_dropout`."""
    if rate is None and module.has_dropout:
        return module
    return module.clone(arch=dataclasses.replace(module.arch, dropout_rate=0.1 if rate is None else rate))


def gradients(model: Any, inputs: Sequence[Any], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of the head's gradient for each text's own prediction, see `diversity.k_means_plus_plus`.

    Args:
      model: trained model with a label for each text.
      inputs: texts or pairs of texts.
      batch_size: texts per forward pass.

    Returns:
      p − y, float32 [N, C], and the pooled features, float32 [N, D].
    """
    kind, head = kind_of(model), model.model.head
    residuals = np.zeros((len(inputs), head.num_outputs), np.float32)
    pooled = np.zeros((len(inputs), model.model.arch.d_model), np.float32)
    for batch in _batches(model, inputs, batch_size, 'gradients'):
        found = _head_inputs(model.model, model.params, batch.features)
        scores, h = (np.asarray(x)[: len(batch.rows)] for x in found)
        p = kind.probabilities(scores)
        y = np.eye(p.shape[-1])[p.argmax(axis=-1)] if kind.is_exclusive else p > 0.5
        residuals[batch.rows], pooled[batch.rows] = p - y, h
    return residuals, pooled


def embedded(model: Any, inputs: Sequence[Any], batch_size: int) -> np.ndarray:
    """Return an embedding of length 1 of each text or pair of texts, float32 [N, D]; see `api.embeddings`."""
    if isinstance(model.predictor, TagPredictor):
        ids = [embeddings.embedding_ids(model, text)[0] for text in inputs]
    else:
        ids = [model.data.tokens(*_pair(given))[0] for given in inputs]
    return embeddings.embed_ids(model, ids, batch_size=batch_size)


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Inputs of similar length.

    Attributes:
      number: number of the batch.
      rows: numbers of the inputs.
      features: their features; those of the last input are repeated up to the size of a batch.
      ends: last token of each word, of a tagger.
    """

    number: int
    rows: np.ndarray
    features: dict[str, np.ndarray]
    ends: list[list[int]] | None


def _batches(model: Any, inputs: Sequence[Any], size: int, doing: str) -> Iterator[_Batch]:
    numbered = enumerate(_in_windows(model, inputs, size))
    for number, (rows, features, ends) in track(numbered, -(-len(inputs) // size), doing):
        yield _Batch(number, rows, features, ends)


def _in_windows(model: Any, inputs: Sequence[Any], size: int) -> Iterator[tuple[np.ndarray, Any, Any]]:
    """Yield rows, features and ends of batches; those of a window, which is encoded at once, are sorted by length."""
    for first in range(0, len(inputs), _WINDOW * size):
        part, ends = inputs[first : first + _WINDOW * size], None
        if isinstance(model.predictor, TagPredictor):
            features, ends = model.data.inputs([[w.group() for w in model.data.words(text)] for text in part])
        else:
            features, _ = model.data.inputs([_pair(given) for given in part])
        for rows, batch in by_length(features, size):
            yield first + rows, batch, None if ends is None else [ends[row] for row in rows]


def _pair(given: Any) -> tuple[str, str | None]:
    return (given, None) if isinstance(given, str) else given


def _per_text(measure: Measure, p: np.ndarray, ends: list[list[int]] | None, is_sampled: bool) -> np.ndarray:
    """Return a measure of probabilities [S, B, C], or the mean over words of [S, B, L, C]."""

    def of(p: np.ndarray) -> np.ndarray:
        return measure(p if is_sampled else p[0])

    if ends is None:
        return of(p)
    return np.array([of(p[:, i, at]).mean() if at else 0.0 for i, at in enumerate(ends)])


@functools.partial(jax.jit, static_argnums=0)
def _head_inputs(module: Any, params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    found = ClassLoss().predict(module, params, batch)
    return found.scores, pool(found.features.astype('float32'), batch['decoder_segment_ids'], module.head.pooling)
