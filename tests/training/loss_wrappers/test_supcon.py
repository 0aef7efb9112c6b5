"""Supervised contrast against its formula in NumPy, and inside a task's loss."""

import jax
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.models.heads import pool
from palm_jax.training.contrast import supervised_contrast
from palm_jax.training.loss_wrappers.supcon import SupCon
from palm_jax.training.losses import features_of
from tests.support.wrapped import KEY, build, features, inputs_of, outcome

LABELS = np.array([0, 1, 0, 2, 0, 1], np.int32)
USED = np.array([True, True, True, True, False, True])


def reference(x, labels, used, temperature):
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    losses = np.zeros(len(x))
    for i in np.flatnonzero(used):
        others = [k for k in np.flatnonzero(used) if k != i]
        total = sum(np.exp(z[i] @ z[k] / temperature) for k in others)
        same = [p for p in others if labels[p] == labels[i]]
        if same:
            losses[i] = -np.mean([np.log(np.exp(z[i] @ z[p] / temperature) / total) for p in same])
    return losses


def test_the_formula():
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    found = supervised_contrast(x, LABELS, USED, 0.3)
    np.testing.assert_allclose(found, reference(x.astype(np.float64), LABELS, USED, 0.3), rtol=1e-5)
    assert np.count_nonzero(found) == 4  # a label of its own, and a row that does not count
    gradient = jax.grad(lambda x: supervised_contrast(x, LABELS, USED, 0.3).sum())(0 * x)
    assert np.isfinite(gradient).all()


def test_beside_cross_entropy():
    batch = features('class', rows=8)
    model, _, params = build('class')
    value, metrics, _ = outcome('class', (SupCon(weight=0.4, temperature=0.2),), batch)
    plain, _, _ = outcome('class', (), batch)
    inputs = inputs_of(model, params, batch)
    h = jax.jit(lambda params: features_of(model, params, inputs.batch, KEY))(params)
    pooled = np.asarray(pool(h, inputs.batch['decoder_segment_ids'], 'mean'), np.float64)
    weights = batch['label_weights']
    contrast = (weights * reference(pooled, batch['labels'], weights > 0, 0.2)).sum()
    np.testing.assert_allclose(value, 0.6 * plain + 0.4 * contrast, rtol=2e-5)
    np.testing.assert_allclose(metrics['contrastive_loss'].value(), contrast / 7, rtol=2e-5)


@pytest.mark.parametrize('kind', ['words', 'tokens'])
def test_what_does_not_label_texts_is_refused(kind):
    with pytest.raises(UserError, match=r'gin/heads/classification\.gin'):
        SupCon().check(build(kind)[0])


def test_label_sets_are_refused():
    with pytest.raises(UserError, match='label sets or numbers'):
        outcome('labels', (SupCon(),))
