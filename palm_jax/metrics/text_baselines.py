"""Baselines of fine-tuned models: what counting and a linear model make of the same examples."""

from __future__ import annotations

import collections
import dataclasses
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from palm_jax.evenly_spaced import evenly_spaced
from palm_jax.metrics import entities, statistics
from palm_jax.metrics.texts import Words

_MOST_EXAMPLES = 20_000  # a baseline is to take seconds; more are sampled
_MOST_WEIGHTS = 2_000_000  # classes times words
_MOST_WORK = 1_000_000_000  # words of all texts, times classes, times iterations
_BAG_OF_WORDS = 'bag of words with logistic regression'


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A baseline and what it reaches on the held-out part.

    Attributes:
      name: what it is.
      metric: name of the metric.
      value: the metric of the baseline.
      best: the best possible value of the metric; 0 for errors, 100 for percentages.
    """

    name: str
    metric: str
    value: float
    best: float = 1.0

    def is_beaten_by(self, value: float) -> bool:
        """Return whether a value of the metric is better than the baseline's, or as good and perfect."""
        return abs(self.best - value) < abs(self.best - self.value) or value == self.value == self.best


def of_classes(
    train_texts: Sequence[str], train: np.ndarray, texts: Sequence[str], labels: np.ndarray
) -> list[Baseline]:
    """Return the accuracy of the majority class and of a bag of words with logistic regression.

    Args:
      train_texts: training texts, [N].
      train: their classes, int [N].
      texts: held-out texts, [E].
      labels: their classes, int [E].
    """
    majority = np.bincount(train).argmax()
    found = [Baseline('majority class', 'accuracy', float(np.mean(labels == majority)))]
    num_classes = len(np.unique(train[evenly_spaced(len(train), _MOST_EXAMPLES)]))
    if num_classes > 1:
        features = _Features(train_texts, num_classes)
        predicted = features.predict(features.logistic_regression(), train, texts)
        found.append(Baseline(_BAG_OF_WORDS, 'accuracy', float(np.mean(predicted == labels))))
    return found


def of_label_sets(
    train_texts: Sequence[str], train: np.ndarray, texts: Sequence[str], labels: np.ndarray
) -> list[Baseline]:
    """Return the share of exactly right label sets of the most frequent set and of a logistic regression per label.

    Args:
      train_texts: training texts, [N].
      train: their labels, [N, C] in {0, 1}.
      texts: held-out texts, [E].
      labels: their labels, [E, C].
    """
    sets, counts = np.unique(train, axis=0, return_counts=True)
    most_frequent = np.broadcast_to(sets[counts.argmax()], labels.shape)
    found = [Baseline('most frequent label set', 'accuracy', statistics.accuracy(labels, most_frequent))]
    features = _Features(train_texts, train.shape[1])
    predicted = features.predict(OneVsRestClassifier(features.logistic_regression()), train.astype(int), texts)
    found.append(Baseline(_BAG_OF_WORDS, 'accuracy', statistics.accuracy(labels, predicted.reshape(labels.shape))))
    return found


def of_numbers(
    train_texts: Sequence[str], train: np.ndarray, texts: Sequence[str], labels: np.ndarray
) -> list[Baseline]:
    """Return the mean absolute error of the training median and of a bag of words with ridge regression.

    Args:
      train_texts: training texts, [N].
      train: their numbers, [N].
      texts: held-out texts, [E].
      labels: their numbers, [E].
    """
    predictions = {
        'median of the training labels': np.full(len(labels), np.median(train)),
        'bag of words with ridge regression': _Features(train_texts, 1).predict(Ridge(), train, texts),
    }
    return [
        Baseline(name, 'absolute_error', float(np.mean(np.abs(predicted - labels))), best=0.0)
        for name, predicted in predictions.items()
    ]


def of_tags(train: Iterable[Any], sentences: Sequence[Any]) -> list[Baseline]:
    """Return the entity F1 of the most frequent tag of every word; words that training lacks are O.

    Args:
      train: training sentences with `words` and `tags`.
      sentences: held-out sentences.
    """
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for sentence in train:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            counts[word][tag] += 1
    most_frequent = {word: of_word.most_common(1)[0][0] for word, of_word in counts.items()}
    totals = np.zeros(3)
    for sentence in sentences:
        predicted = entities.decode([most_frequent.get(word, 'O') for word in sentence.words])
        totals += statistics.entity_counts(entities.decode(sentence.tags), predicted)
    return [Baseline('most frequent tag of every word', 'entity_f1', statistics.precision_recall_f1(*totals)[2])]


def nearest(train_texts: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Return the number of the training text nearest to each text, by the cosine of their bags of words."""
    features = _Features(train_texts, 1)
    return [int(features.chosen[(features.train @ row.T).toarray().argmax()]) for row in features.transform(texts)]


class _Features:
    """Words of a sample of the training texts, weighted by tf-idf.

    Args:
      texts: training texts, [N].
      num_classes: number of classes that a weight per word is learned for.
    """

    def __init__(self, texts: Sequence[str], num_classes: int):
        self._vectorizer = TfidfVectorizer(
            analyzer=_words, max_features=max(100, _MOST_WEIGHTS // num_classes), dtype=np.float32
        )
        self.chosen = evenly_spaced(len(texts), _MOST_EXAMPLES)
        self.train = self._vectorizer.fit_transform([texts[i] for i in self.chosen])
        self._work = max(1, self.train.nnz * num_classes)

    def transform(self, texts: Sequence[str]) -> Any:
        """Return the weights of the words of texts, sparse [E, words]."""
        return self._vectorizer.transform(texts)

    def logistic_regression(self) -> LogisticRegression:
        """Return a classifier that takes fewer iterations where each is long."""
        return LogisticRegression(C=10.0, max_iter=int(np.clip(_MOST_WORK // self._work, 10, 200)))

    def predict(self, model: Any, labels: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Fit a model of scikit-learn to the training texts and their labels [N]; return its predictions for others."""
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', ConvergenceWarning)
            warnings.simplefilter('ignore', UserWarning)  # a label that all or no examples have
            return model.fit(self.train, labels[self.chosen]).predict(self.transform(texts))


def _words(text: str) -> list[str]:
    """Return lower-cased words, Chinese characters and other marks; never none, which scikit-learn refuses."""
    return [*Words().tokenize(text), *re.findall(r'[^\w\s]', text)] or ['']
