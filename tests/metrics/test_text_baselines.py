"""Baselines of fine-tuned models: their definitions, and what scikit-learn makes of the same features."""

import types

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity

from palm_jax.metrics import text_baselines as baselines

WORDS = {0: 'money card bank loan', 1: 'dog cat bird fish', 2: 'sun rain wind snow'}


def texts_of(labels, seed):
    draw = np.random.default_rng(seed)
    return [' '.join(draw.choice([*WORDS[label].split(), 'the', 'a', 'of'], 6)) for label in labels]


@pytest.fixture(scope='module')
def examples():
    labels = [np.random.default_rng(seed).choice(3, size, p=[0.6, 0.3, 0.1]) for seed, size in ((0, 300), (1, 80))]
    return texts_of(labels[0], 2), labels[0], texts_of(labels[1], 3), labels[1]


def test_classes(examples):
    train_texts, train, texts, labels = examples
    majority, linear = baselines.of_classes(*examples)
    assert majority.value == np.mean(labels == 0) and majority.metric == 'accuracy'
    vectorizer = TfidfVectorizer(token_pattern=r'\w+')
    model = LogisticRegression(C=10, max_iter=500).fit(vectorizer.fit_transform(train_texts), train)
    assert (
        linear.value == pytest.approx(model.score(vectorizer.transform(texts), labels), abs=0.03) and linear.value > 0.9
    )


def test_label_sets_and_numbers(examples):
    train_texts, train, texts, labels = examples
    sets = [np.eye(4)[of] for of in (train, labels)]  # the last label never holds
    frequent, linear = baselines.of_label_sets(train_texts, sets[0], texts, sets[1])
    assert frequent.value == np.mean(labels == 0) and linear.value > 0.85
    median, ridge = baselines.of_numbers(train_texts, train.astype(float), texts, labels.astype(float))
    assert median.value == np.abs(labels - np.median(train)).mean() and ridge.value < 0.5 * median.value
    assert ridge.is_beaten_by(0.0) and not ridge.is_beaten_by(1.0)


def test_one_class_and_texts_without_words_are_no_trouble():
    (majority,) = baselines.of_classes(['a', 'b'], np.zeros(2, int), ['c'], np.zeros(1, int))
    assert majority.value == 1.0
    assert len(baselines.of_classes(['', '!', '...'], np.array([0, 1, 1]), ['?', ''], np.array([0, 1]))) == 2


def test_many_classes_take_seconds():
    labels = np.arange(2000) % 800
    texts = [f'word{label} the {i}' for i, label in enumerate(labels)]
    assert baselines.of_classes(texts, labels, texts[:50], labels[:50])[0].value == 1 / 50


def test_tags():
    sentence = lambda text: types.SimpleNamespace(  # noqa: E731
        words=[pair.split('/')[0] for pair in text.split()], tags=[pair.split('/')[1] for pair in text.split()]
    )
    train = [sentence('Ann/B-PER likes/O Rome/B-LOC'), sentence('Rome/B-LOC falls/O'), sentence('Rome/B-PER speaks/O')]
    (found,) = baselines.of_tags(train, [sentence('Ann/B-PER saw/O Rome/B-LOC'), sentence('Bob/B-PER likes/O Ann/O')])
    assert found.metric == 'entity_f1' and found.value == pytest.approx(2 / 3)  # 2 right, 3 found, 3 true


def test_the_nearest_text_is_that_of_the_highest_cosine():
    train, held_out = texts_of(np.arange(90) % 3, 5), texts_of(np.arange(20) % 3, 6)
    vectorizer = TfidfVectorizer(token_pattern=r'\w+')
    known = vectorizer.fit_transform(train)
    similarity = cosine_similarity(vectorizer.transform(held_out), known)
    chosen = baselines.nearest(train, held_out)
    assert similarity[np.arange(20), chosen] == pytest.approx(similarity.max(axis=1))
    assert baselines.nearest(['我爱你', '天气很好'], ['今天天气好']) == [1]
