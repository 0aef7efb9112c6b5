"""SimCSE against its formula in NumPy: texts alone, with positives, and with hard negatives."""

import dataclasses

import jax
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.models.heads import pool
from palm_jax.training.losses import features_of
from palm_jax.training.simcse import SimCSELoss
from tests.support.wrapped import KEY, build, features

ROLES = ('input', 'positive', 'negative')


def batch_of(num_texts):
    """A batch whose rows have this many texts; the last row has no weight."""
    batch = {'label_weights': np.array([1, 1, 1, 0], np.float32)}
    for number, role in enumerate(ROLES[:num_texts]):
        own = features('class')
        tokens = np.roll(own['decoder_input_tokens'], number, axis=1) + number
        batch[f'decoder_{role}_tokens'] = tokens
        batch[f'decoder_{"" if number == 0 else role + "_"}segment_ids'] = own['decoder_segment_ids']
    return batch


def embedded(model, params, batch, dropout_rng, num_texts):
    """Normalized features of every text, float64 [4, N, D], from one pass over all of them, row by row."""
    names = ROLES[:num_texts] if num_texts > 1 else ('input', 'input')
    tokens = np.stack([batch[f'decoder_{role}_tokens'] for role in names], axis=1)
    segments = np.stack(
        [batch[f'decoder_{"" if role == "input" else role + "_"}segment_ids'] for role in names], axis=1
    )
    flat = {'decoder_input_tokens': tokens.reshape(-1, 12), 'decoder_segment_ids': segments.reshape(-1, 12)}
    h = jax.jit(lambda params: pool(features_of(model, params, flat, dropout_rng), flat['decoder_segment_ids'], 'mean'))
    x = np.asarray(h(params), np.float64).reshape(4, len(names), -1)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize('num_texts', [1, 3, pytest.param(2, marks=pytest.mark.slow)])
def test_the_formula(num_texts):
    model, _, params = build('words')
    batch, loss = batch_of(num_texts), SimCSELoss(temperature=0.1)
    total, metrics = jax.jit(lambda params: loss(model, params, batch, KEY))(params)
    x = embedded(model, params, batch, KEY, num_texts)
    candidates = np.concatenate([x[:3, n] for n in range(1, x.shape[1])])
    similarities = np.exp(x[:3, 0] @ candidates.T / 0.1)
    losses = -np.log(np.diagonal(similarities) / similarities.sum(axis=1))
    np.testing.assert_allclose(total, losses.sum(), rtol=1e-4)
    assert metrics['loss'].count == 3
    np.testing.assert_allclose(metrics['accuracy'].value(), (similarities.argmax(axis=1) == np.arange(3)).mean())
    if num_texts == 1:
        assert np.abs(x[:, 0] - x[:, 1]).max() > 1e-3  # two dropout masks


def test_texts_alone_need_dropout():
    model, _, params = build('words', dropout_rate=0.0)
    with pytest.raises(UserError, match=r'--gin.DROPOUT_RATE=0.1'):
        jax.eval_shape(lambda: SimCSELoss()(model, params, batch_of(1)))
    jax.eval_shape(lambda: SimCSELoss()(model, params, batch_of(2)))
    with pytest.raises(UserError, match='temperature'):
        dataclasses.replace(SimCSELoss(), temperature=0.0)
