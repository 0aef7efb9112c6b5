"""Distillation against its formula in NumPy."""

import jax
import numpy as np
import pytest
import scipy.special

from palm_jax.errors import UserError
from palm_jax.training.loss_wrappers.distillation import Distillation
from palm_jax.training.loss_wrappers.wrapper import wrap
from tests.support.wrapped import KEY, LOSSES, build, features, inputs_of, outcome

ALPHA, T = 0.3, 1.5


def test_the_formula():
    model, _, params = build('class')
    batch = features('class')
    batch['teacher_scores'] = np.random.default_rng(1).normal(size=(4, 3), scale=2).astype(np.float32)
    batch['teacher_weights'] = np.array([1, 0, 1, 1], np.float32)
    value, metrics, _ = outcome('class', (Distillation(ALPHA, T),), batch)
    plain, _, _ = outcome('class', (), features('class'))
    arguments = batch['decoder_input_tokens'], None, batch['decoder_segment_ids']
    scores = jax.jit(
        lambda p: model.apply({'params': p}, *arguments, deterministic=False, rngs={'dropout': KEY}, method='scores')
    )(params)
    p_t, p_s = (
        scipy.special.softmax(np.asarray(x, np.float64) / T, axis=-1) for x in (batch['teacher_scores'], scores)
    )
    kl = scipy.special.rel_entr(p_t, p_s).sum(axis=-1)
    weights = batch['label_weights'] * batch['teacher_weights']
    expected = (1 - ALPHA) * float(plain) + ALPHA * T**2 * (weights * kl).sum()
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(metrics['teacher_divergence'].value(), (weights * kl).sum() / 2, rtol=2e-5)


def test_a_batch_without_a_teacher_and_a_tagger_are_refused():
    model, _, params = build('class')
    with pytest.raises(UserError, match=r'gin/methods/distil\.gin'):
        jax.eval_shape(lambda: wrap(LOSSES['class'], (Distillation(),))(inputs_of(model, params, features('class'))))
    with pytest.raises(UserError, match='Distillation needs a class per text'):
        Distillation().check(build('tokens')[0])
