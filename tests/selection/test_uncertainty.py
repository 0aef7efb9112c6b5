"""Measures of uncertainty against SciPy, and against all sets of labels one by one."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mutual_info_score

from palm_jax.selection import uncertainty


@pytest.fixture
def p():
    return np.random.default_rng(0).dirichlet(np.full(5, 0.6), (4, 30))


def test_one_class_per_text(p):
    assert np.allclose(uncertainty.entropy(p), stats.entropy(p, axis=-1))
    ordered = -np.sort(-p, axis=-1)
    assert np.allclose(uncertainty.least_confidence(p), 1 - ordered[..., 0])
    assert np.allclose(uncertainty.margin(p), 1 - (ordered[..., 0] - ordered[..., 1]))


def test_what_is_certain_has_no_uncertainty():
    certain = np.array([[0.0, 1.0, 0.0]])
    for is_exclusive in (True, False):
        for function in (uncertainty.entropy, uncertainty.least_confidence, uncertainty.margin):
            assert function(certain, is_exclusive) == [0.0]
    for function in (uncertainty.entropy, uncertainty.least_confidence, uncertainty.margin):
        assert function(np.ones((2, 1))).tolist() == [0.0, 0.0]  # a single class


def test_sets_of_labels_are_a_distribution_over_all_sets():
    p = np.random.default_rng(1).uniform(size=(20, 4))
    sets = np.array(list(itertools.product([0, 1], repeat=4)))
    joint = np.where(sets, p[:, None], 1 - p[:, None]).prod(axis=-1)
    assert np.allclose(uncertainty.entropy(p, False), stats.entropy(joint, axis=-1))
    ordered = -np.sort(-joint, axis=-1)
    assert np.allclose(uncertainty.least_confidence(p, False), 1 - ordered[:, 0])
    assert np.allclose(uncertainty.margin(p, False), 1 - (ordered[:, 0] - ordered[:, 1]))


def test_bald_is_the_mutual_information_of_mask_and_class(p):
    expected = [
        mutual_info_score(None, None, contingency=np.rint(p[:, i] * 1e9).astype(int)) for i in range(p.shape[1])
    ]
    assert np.allclose(uncertainty.bald(p), expected)
    same = np.repeat(p[:1], 3, axis=0)
    assert np.allclose(uncertainty.bald(same), 0)
    binary = np.random.default_rng(2).uniform(size=(6, 10, 1))
    assert np.allclose(uncertainty.bald(binary, False), uncertainty.bald(np.concatenate([binary, 1 - binary], axis=-1)))
