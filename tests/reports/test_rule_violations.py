"""The likeliest tags under rules, against all sequences; the report itself is that of a whole run in tests/e2e."""

import itertools

import numpy as np

from palm_jax.reports.rule_violations import viterbi


def test_the_likeliest_tags_are_those_with_the_largest_sum():
    rng = np.random.default_rng(2)
    for words in (1, 2, 5):
        scores, transitions = rng.normal(size=(words, 3)), rng.normal(size=(4, 3))

        def total(tags, scores=scores, transitions=transitions):
            pairs = zip((3, *tags), tags, strict=False)
            return sum(scores[range(len(tags)), tags]) + sum(transitions[pair] for pair in pairs)

        best = max(itertools.product(range(3), repeat=words), key=total)
        assert viterbi(scores, transitions).tolist() == list(best)
    assert viterbi(np.zeros((0, 3)), transitions).tolist() == []
