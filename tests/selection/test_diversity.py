"""Core-sets and BADGE against references that hold all distances, and all gradients."""

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances

from palm_jax.selection import diversity


def reference_k_center(x, centers, count):
    distances = pairwise_distances(np.concatenate([x, centers]))
    covered, chosen = [*range(len(x), len(x) + len(centers))], []
    for _ in range(count):
        nearest = distances[: len(x), covered].min(axis=1)
        chosen.append((int(nearest.argmax()), nearest.max()))
        covered.append(chosen[-1][0])
    return chosen


@pytest.mark.parametrize('rows', [7, 4096])
def test_a_core_set_is_the_farthest_first_traversal(rows, monkeypatch):
    monkeypatch.setattr(diversity, '_ROWS', rows)
    rng = np.random.default_rng(0)
    x, centers = rng.normal(size=(60, 8)).astype(np.float32), rng.normal(size=(20, 8)).astype(np.float32)
    found = diversity.k_center_greedy(x, centers, 15, rng)
    expected = reference_k_center(x, centers, 15)
    assert found.rows == [i for i, _ in expected]
    assert np.allclose(found.distances, [d for _, d in expected], atol=1e-5)


def test_a_core_set_without_labelled_texts_begins_anywhere():
    x = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    found = diversity.k_center_greedy(x, np.zeros((0, 3), np.float32), 9, np.random.default_rng(2))
    assert sorted(found.rows) == list(range(9)) and np.isnan(found.distances[0])
    rest = reference_k_center(x, x[found.rows[:1]], 8)
    assert found.rows[1:8] == [i for i, _ in rest][:7]


def reference_badge(gradients, count, rng):
    chosen = [int(np.linalg.norm(gradients, axis=1).argmax())]
    while len(chosen) < count:
        squared = pairwise_distances(gradients, gradients[chosen]).min(axis=1) ** 2
        squared[chosen] = 0
        chosen.append(int(rng.choice(len(gradients), p=squared / squared.sum())))
    return chosen


def test_badge_is_k_means_plus_plus_on_the_gradients():
    rng = np.random.default_rng(3)
    residuals, features = rng.normal(size=(50, 4)), rng.normal(size=(50, 6))
    gradients = np.einsum('nc,nd->ncd', residuals, features).reshape(50, -1)
    for seed in range(5):
        found = diversity.k_means_plus_plus(residuals, features, 12, np.random.default_rng(seed))
        assert found.rows == reference_badge(gradients, 12, np.random.default_rng(seed))
    assert np.isclose(found.distances[0], np.linalg.norm(gradients, axis=1).max())


def test_texts_that_are_all_alike_are_chosen_once_each():
    ones = np.ones((6, 2), np.float32)
    for found in (
        diversity.k_means_plus_plus(ones, ones, 6, np.random.default_rng(0)),
        diversity.k_center_greedy(ones, ones[:1], 6, np.random.default_rng(0)),
    ):
        assert sorted(found.rows) == list(range(6))
