"""Shares of n-grams in the training text, by brute force."""

import re

import numpy as np

from palm_jax.microscope.contamination import overlaps, parts


def test_shares_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    word = lambda: str(rng.choice(['a', 'b', 'c']))  # noqa: E731
    training = [' '.join(word() for _ in range(60)) for _ in range(3)]
    texts = [' '.join(word() for _ in range(n)) for n in (3, 4, 9, 30)] + ['', training[0][10:50].upper(), 'a-b, C!']
    found = overlaps(texts, iter(training), 4)
    for text, share in zip(texts, found, strict=True):
        words = re.findall(r'\w+', text.lower())
        size = min(4, len(words))
        grams = {' '.join(words[i : i + size]) for i in range(len(words) - size + 1)} if words else set()
        hits = sum(any(f' {gram} ' in f' {t} ' for t in training) for gram in grams)
        assert share == (hits / len(grams) if grams else 0)
    assert found[5] == 1.0 and found[4] == 0.0


def test_both_parts_have_their_scores():
    found = parts(np.array([1.0, 0.7, 0.69, 0.0]), np.array([1.0, 0.0, 1.0, 1.0]))
    assert (found['dirty'].count, found['dirty'].score) == (2, 0.5) and found['clean'].score == 1.0
    assert found['clean'].interval == (1.0, 1.0)
    none = parts(np.array([0.0]), None)
    assert none['clean'].count == 1 and none['clean'].score is None and none['dirty'].count == 0
