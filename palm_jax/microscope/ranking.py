"""Scores of examples: loss, gradient norm, disagreement; near-duplicates; labels that may be wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors
from tqdm import tqdm

from palm_jax.errors import UserError
from palm_jax.microscope.token_losses import example_losses
from palm_jax.predictors.predictor import purpose_of
from palm_jax.training.losses import LanguageModelLoss, has_row_losses
from palm_jax.training.setup import adapt_from_arguments

_NEIGHBOURS = 6  # nearest texts of each text that may be its duplicates


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two texts that are nearly the same.

    Attributes:
      first: number of the first example.
      second: number of the second one.
      similarity: cosine of their character n-grams.
    """

    first: int
    second: int
    similarity: float


def losses(model: Any, features: Mapping[str, np.ndarray], with_gradients: bool, batch_size: int) -> np.ndarray:
    """Return the mean loss and the gradient norm of each example, float64 [E, 2]; see `example_losses`.

    Args:
      model: trained model, an `api.TrainedModel`.
      features: features [E, ...] of the examples.
      with_gradients: whether to compute gradient norms, which are 0 otherwise.
      batch_size: examples per call; they are computed one after the other.

    Raises:
      UserError: an example of this run has no loss of its own.
    """
    loss = model.run.get('loss') or LanguageModelLoss()
    if not has_row_losses(loss):
        raise UserError(
            f'This model was trained {purpose_of(model)}: its loss compares the texts of a batch with each other, so '
            'that a text alone has none by which it could be ranked. palm-jax inspect step shows the texts of a batch.'
        )
    trained: Any = model.params
    frozen: Any = {}
    if with_gradients:
        trained, frozen = adapt_from_arguments(model.run)[1].split(model.params)
    count = len(next(iter(features.values())))
    found = np.zeros((count, 2))
    with tqdm(total=count, desc='losses', unit=' examples', leave=False) as progress:
        for rows, batch in model.data.by_length(features, batch_size):
            values = example_losses(loss, model.model, with_gradients, trained, frozen, batch)
            found[rows] = np.stack([np.asarray(v, float) for v in values], axis=1)[: len(rows)]
            progress.update(len(rows))
    return found


def near_duplicates(texts: Sequence[str], least: float = 0.8) -> list[Pair]:
    """Return pairs of texts whose character n-grams have at least this cosine, the most similar first.

    Args:
      texts: texts of the examples.
      least: least similarity, in (0, 1].
    """
    if len(texts) < 2:
        return []
    grams = TfidfVectorizer(analyzer='char_wb', ngram_range=(2, 4), sublinear_tf=True).fit_transform(texts)
    index = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(texts)), metric='cosine').fit(grams)
    distances, neighbours = index.kneighbors(grams)
    pairs = {
        (min(i, int(j)), max(i, int(j))): 1 - float(d)
        for i in range(len(texts))
        for d, j in zip(distances[i], neighbours[i], strict=True)
        if i != j and 1 - d >= least
    }
    return [Pair(i, j, s) for (i, j), s in sorted(pairs.items(), key=lambda item: -item[1])]


def likely_wrong(probabilities_EC: np.ndarray, labels_E: np.ndarray) -> list[int]:
    """Return the examples whose label is likely wrong, the likeliest first (confident learning).

    An example counts if the model gives another class at least the mean probability that it gives to that class where
    it is the label (Northcutt et al. 2021, arXiv 1911.00068), and more than to the label. They are in order of the
    label's probability minus that of the other class.

    Args:
      probabilities_EC: probabilities of C classes; from a model that has not learned the example where possible.
      labels_E: class ids.
    """
    C = probabilities_EC.shape[1]
    own_E = probabilities_EC[np.arange(len(labels_E)), labels_E]
    thresholds_C = np.array([own_E[labels_E == c].mean() if np.any(labels_E == c) else np.inf for c in range(C)])
    confident_EC = probabilities_EC >= thresholds_C
    confident_EC[np.arange(len(labels_E)), labels_E] = False
    other_EC = np.where(confident_EC, probabilities_EC, -np.inf)
    margin_E = own_E - other_EC.max(axis=1)
    found = np.flatnonzero(margin_E < 0)
    return [int(i) for i in found[np.argsort(margin_E[found], kind='stable')]]


def disagreement(answers: Sequence[Sequence[Any]]) -> np.ndarray:
    """Return for each example the share of pairs of models that answer differently, float64 [E].

    Args:
      answers: answers of each model to the examples.
    """
    count, total = len(answers), np.zeros(len(answers[0]))
    for i in range(count):
        for j in range(i + 1, count):
            total += [a != b for a, b in zip(answers[i], answers[j], strict=True)]
    return total / max(count * (count - 1) / 2, 1)
