"""Ranks, hits@k and MRR against scikit-learn and SciPy."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import label_ranking_average_precision_score, top_k_accuracy_score

from palm_jax.metrics import link_prediction


def test_ranks_are_those_of_scipy_with_ties_and_without_other_answers():
    rng = np.random.default_rng(0)
    for _ in range(50):
        distances = rng.integers(0, 6, 12).astype(float)
        right, *others = rng.choice(12, 4, replace=False).tolist()
        kept = [i for i in range(12) if i not in others]
        expected = rankdata(distances[kept], method='average')[kept.index(right)]
        assert link_prediction.rank(distances, right, {right, *others}) == expected


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    distances, right = rng.random((200, 30)), rng.integers(0, 30, 200)
    ranks = [link_prediction.rank(d, r) for d, r in zip(distances, right, strict=True)]
    found = link_prediction.scores(ranks)
    assert found['mrr'] == pytest.approx(label_ranking_average_precision_score(np.eye(30)[right], -distances))
    for k in link_prediction.HITS:
        expected = top_k_accuracy_score(right, -distances, k=k, labels=range(30))
        assert found[f'hits_at_{k}'] == pytest.approx(expected)
    chance = link_prediction.by_chance(30)
    assert chance['hits_at_10'] == pytest.approx(1 / 3) and chance['mrr'] == pytest.approx(found['mrr'], abs=0.05)
    assert np.isnan(link_prediction.scores([])['mrr'])
