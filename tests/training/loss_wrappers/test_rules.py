"""Posterior regularization and the semantic loss against their formulas in NumPy, for all heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.training import rule_inference
from palm_jax.training.loss_wrappers.posterior_regularization import PosteriorRegularization
from palm_jax.training.loss_wrappers.semantic_loss import SemanticLoss
from palm_jax.training.loss_wrappers.wrapper import wrap
from tests.support.ruled import every_state, probability, ruled
from tests.support.wrapped import LOSSES, C, build, inputs_of, outcome, trained_for

PLAIN = {'methods': (), 'dropout_rate': 0.0, 'trainable': ('head/.*', 'final_norm/.*')}
KINDS = ('class', 'labels', 'tokens')
PR = PosteriorRegularization(weight=0.8, strength=2.0, decay=0.5, steps_per_epoch=10)


def scores_of(kind, batch):
    model, _, params = build(kind, **PLAIN)
    return np.float64(LOSSES[kind].predict(model, params, batch).scores)


def expected_teacher(kind, batch, scores, row):
    """CE(q, p) and KL(q ‖ p) of each label of a row that counts, with its weight."""
    states = list(every_state(kind, batch, row))
    q = np.array([probability(kind, scores, batch, row, y) * np.exp(-PR.strength * cost) for y, cost in states])
    q /= q.sum()
    if kind == 'labels':
        q_C = sum(m * np.array(y) for (y, _), m in zip(states, q, strict=True))
        p_C = 1 / (1 + np.exp(-scores[row]))
        pairs = [(np.array([b, 1 - b]), np.array([a, 1 - a])) for a, b in zip(p_C, q_C, strict=True)]
        terms = [(-(t * np.log(p)).sum(), (t * np.log(t / p)).sum()) for t, p in pairs]
        return [(batch['label_weights'][row], *np.mean(terms, axis=0))]
    places = np.flatnonzero(batch['rule_words'][row]) if kind == 'tokens' else [()]
    found = []
    for number, place in enumerate(places):
        at = (row, place) if kind == 'tokens' else (row,)
        t = np.array([sum(m for (y, _), m in zip(states, q, strict=True) if y[number] == c) for c in range(C)])
        p = np.exp(scores[at]) / np.exp(scores[at]).sum()
        found.append((batch['label_weights'][at], -(t * np.log(p)).sum(), (t * np.log(t / p)).sum()))
    return found


@pytest.mark.parametrize('kind', ['class', 'tokens', pytest.param('labels', marks=pytest.mark.slow)])
def test_posterior_regularization_is_that_of_the_paper(kind):
    batch = ruled(kind)
    model, _, params = build(kind, **PLAIN)
    inputs, scores = inputs_of(model, params, batch, at=20), scores_of(kind, batch)
    plain, _ = wrap(LOSSES[kind])(inputs)
    value, metrics = jax.jit(lambda: wrap(LOSSES[kind], (PR,))(inputs))()
    rows = [expected_teacher(kind, batch, scores, row) for row in range(len(scores))]
    weights, cross_entropy, divergence = np.array([term for row in rows for term in row]).T
    share = 1 - 0.5**2
    expected = (1 - share) * float(plain) + share * (weights * cross_entropy).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(
        metrics['rule_divergence'].value(), (weights * divergence).sum() / weights.sum(), rtol=1e-3
    )
    assert float(PR.share_at(jnp.int32(0))) == 0 and float(PR.share_at(jnp.int32(1000))) == pytest.approx(0.8)
    assert float(PosteriorRegularization(weight=0.8, decay=0.0).share_at(jnp.int32(0))) == pytest.approx(0.8)


@pytest.mark.parametrize('kind', KINDS)
def test_the_semantic_loss_is_that_of_the_paper(kind):
    batch = ruled(kind)
    value, metrics, gradient = outcome(kind, (SemanticLoss(weight=0.3),), batch, **PLAIN)
    plain, _, _ = outcome(kind, (), batch, **PLAIN)
    scores, of_rows = scores_of(kind, batch), []
    weights = batch['label_weights'].max(axis=1) if kind == 'tokens' else batch['label_weights']
    for row in range(len(scores)):
        states = every_state(kind, batch, row)
        of_rows.append(-np.log(sum(probability(kind, scores, batch, row, y) for y, cost in states if cost == 0)))
    expected = (weights * of_rows).sum()
    np.testing.assert_allclose(float(value - plain), 0.3 * expected, rtol=1e-3)
    np.testing.assert_allclose(metrics['semantic_loss'].value(), expected / weights.sum(), rtol=1e-3)
    on_device = {name: jnp.asarray(x) for name, x in batch.items()}
    broken = np.asarray(rule_inference.broken(jnp.asarray(scores), on_device))[weights > 0]
    assert metrics['rule_violations'].value() == pytest.approx(broken.mean())
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient)) and expected > 0.1


@pytest.mark.parametrize('kind', ['class', 'tokens'])
def test_rules_that_no_label_keeps_have_no_semantic_loss(kind):
    batch = ruled(kind)
    name = 'rule_transitions' if kind == 'tokens' else 'rule_penalties'
    batch[name] = np.ones_like(batch[name])
    value, metrics, gradient = outcome(kind, (SemanticLoss(),), batch, **PLAIN)
    plain, _, _ = outcome(kind, (), batch, **PLAIN)
    assert float(value) == float(plain) and metrics['rule_violations'].value() == 1
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_steps_resume_bit_for_bit_and_learn_the_rules():
    batch, wrappers = ruled('class'), (SemanticLoss(weight=20.0), PR)
    whole, metrics = trained_for(3, 'class', wrappers, batch=batch)
    part, first = trained_for(1, 'class', wrappers, batch=batch)
    again, same = trained_for(2, 'class', wrappers, jax.tree.map(np.asarray, part), batch=batch)
    jax.tree.map(np.testing.assert_array_equal, (whole, metrics), (again, same))
    later, _ = trained_for(30, 'class', wrappers, whole, batch=batch)
    _, last = trained_for(1, 'class', wrappers, later, batch=batch)
    assert last['semantic_loss'].value() < first['semantic_loss'].value()


def test_a_model_that_generates_text_is_refused():
    for wrapper in (PR, SemanticLoss()):
        with pytest.raises(UserError, match=r'has rules about labels: add --gin_file=gin/heads/classification\.gin'):
            wrapper.check(build('words')[0])
    PosteriorRegularization(weight=0.0).check(build('words')[0])
