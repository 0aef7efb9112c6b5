"""Inference under rules against sums over everything that the labels can be."""

import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.training import rule_inference
from tests.support.ruled import STRENGTH, every_state, probability, ruled
from tests.support.wrapped import C, L, features

KINDS = ('class', 'labels', 'tokens')


def given(kind):
    batch = ruled(kind)
    rows = len(batch['label_weights'])
    scores = np.random.default_rng(6).normal(size=(rows, L, C) if kind == 'tokens' else (rows, C), scale=1.5)
    return batch, np.float32(scores), {name: jnp.asarray(x) for name, x in batch.items()}


@pytest.mark.parametrize('kind', KINDS)
def test_the_normalizer_and_the_marginals_are_sums_over_all_labels(kind):
    batch, scores, on_device = given(kind)
    log_p = rule_inference.log_probabilities(scores, on_device)
    for potential, factor in (
        (rule_inference.weighed(STRENGTH), lambda penalty: np.exp(-STRENGTH * penalty)),
        (rule_inference.hard, lambda penalty: float(penalty == 0)),
    ):
        found = rule_inference.log_normalizer(log_p, on_device, potential)
        q = np.asarray(rule_inference.marginals(log_p, on_device, potential))
        for row in range(len(scores)):
            states = list(every_state(kind, batch, row))
            mass = [probability(kind, scores, batch, row, labels) * factor(penalty) for labels, penalty in states]
            np.testing.assert_allclose(found[row], np.log(sum(mass)), rtol=1e-4, atol=1e-5)
            expected = np.zeros_like(q[row])
            places = np.flatnonzero(batch['rule_words'][row]) if kind == 'tokens' else range(C)
            for (labels, _), m in zip(states, mass, strict=True):
                if kind == 'class':
                    expected[labels[0]] += m / sum(mass)
                else:  # of a place the tag, or of a label whether it holds
                    expected[places, labels] += m / sum(mass)
            at = places if kind != 'class' else slice(None)
            np.testing.assert_allclose(q[row][at], expected[at], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_a_prediction_breaks_what_its_labels_break(kind):
    batch, scores, on_device = given(kind)
    found = rule_inference.broken(jnp.asarray(scores), on_device)
    for row in range(len(scores)):
        penalty = dict(every_state(kind, batch, row))
        if kind == 'labels':
            labels = tuple(int(s > 0) for s in scores[row])
        elif kind == 'class':
            labels = (int(scores[row].argmax()),)
        else:
            labels = tuple(int(scores[row, i].argmax()) for i in np.flatnonzero(batch['rule_words'][row]))
        assert found[row] == (penalty[labels] > 0)
    assert int(found.sum()) > 0


def test_a_batch_without_rules_is_refused():
    with pytest.raises(UserError, match=r'gin/methods/rules\.gin'):
        rule_inference.log_probabilities(jnp.zeros((4, 3)), features('class'))
