"""What is reached without pretraining on the training rows and the held-out part of a case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from palm_jax.metrics import entities
from palm_jax.metrics import texts as text_metrics
from palm_jax.metrics.statistics import entity_counts, precision_recall_f1


def classify(data: Any) -> tuple[str, float]:
    """Classify by logistic regression on TF-IDF of words and bigrams; return the name and the accuracy."""
    train, held_out = data.examples('train'), data.examples('validation')
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=30, max_iter=2000)
    model.fit(vectors.fit_transform([e.text for e in train]), [e.label for e in train])
    predicted = model.predict(vectors.transform([e.text for e in held_out]))
    right = [p == e.label for p, e in zip(predicted, held_out, strict=True)]
    return 'TF-IDF with logistic regression', float(np.mean(right))


def tag(data: Any) -> tuple[str, float]:
    """Tag by logistic regression on a word, its shape, prefix, suffix and neighbors; return the name and entity F1."""

    def shape(word: str) -> str:
        return ''.join('X' if c.isupper() else 'x' if c.islower() else '0' if c.isdigit() else c for c in word)

    def features(words: Sequence[str]) -> list[dict[str, str]]:
        padded = ['', *words, '']
        return [
            {f'word {at}': padded[i + at].lower() for at in (-1, 0, 1)}
            | {'shape': shape(word), 'begin': word[:3], 'end': word[-3:]}
            for i, word in enumerate(words, 1)
        ]

    train, held_out = data.examples('train'), data.examples('validation')
    vectors, model = DictVectorizer(), LogisticRegression(C=10, max_iter=1000)
    rows = vectors.fit_transform([row for s in train for row in features(s.words)])
    model.fit(rows, [tag for s in train for tag in s.tags])
    counts = np.zeros(3)
    for sentence in held_out:
        tags = model.predict(vectors.transform(features(sentence.words)))
        counts += entity_counts(entities.decode(sentence.tags), entities.decode(list(tags)))
    return 'logistic regression on words in context', precision_recall_f1(*counts)[2]


def retrieve(data: Any) -> tuple[str, float]:
    """Answer with the target of the nearest training input by TF-IDF; return the name and BLEU."""
    prompts = tuple(data.prompts())
    texts = data.nearest_answers(prompts)
    of_rows: Any = text_metrics.bleu(texts, [prompt.references for prompt in prompts])['bleu']
    return 'the answer to the nearest training input by TF-IDF', float(of_rows(np.arange(len(texts))))


BASELINES = {'banking77': classify, 'wnut17': tag, 'e2e_nlg': retrieve}
