"""Unlikelihood training: the loss against NumPy by the paper's formula, position by position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.data.vocabulary.phrases import token_ids
from palm_jax.errors import UserError
from palm_jax.models.kernels.unlikelihood import unlikelihood
from palm_jax.training.loss_wrappers.unlikelihood import Unlikelihood
from palm_jax.training.loss_wrappers.wrapper import wrap
from tests.support.wrapped import LOSSES, build, features, inputs_of, trained_for

OPTIONS = {'methods': (), 'trainable': ('.*',), 'dropout_rate': 0.0}


def expected(batch, p, phrases, window, end=1):
    """−Σ log(1 − p(c)) in float64, written for one position at a time."""
    total = 0.0
    inputs, segments = batch['decoder_input_tokens'], batch.get('decoder_segment_ids')
    for b, row in enumerate(inputs):
        for t in range(len(row)):
            start = 0
            while segments is not None and segments[b, start] != segments[b, t]:
                start += 1
            context = row[start : t + 1].tolist()
            found = {token for token in context[-window:] if token > end} if window else set()
            found -= {int(batch['decoder_target_tokens'][b, t])}
            for *beginning, last in phrases:
                if not beginning or context[-len(beginning) :] == beginning:
                    found.add(last)
            total -= batch['decoder_loss_weights'][b, t] * sum(np.log1p(-p[b, t, c]) for c in found)
    return total


@pytest.mark.parametrize(
    'window', [pytest.param(0, marks=pytest.mark.slow), 3, pytest.param(50, marks=pytest.mark.slow)]
)
def test_the_loss_is_that_of_the_paper(window):
    model, _, params = build('words', **OPTIONS)
    batch = features('words')
    row = batch['decoder_input_tokens'][0].tolist()
    phrases = ((7,), (row[3], row[4], 9), (row[1], 11), (59, 60, 3))
    target = int(batch['decoder_target_tokens'][0, 2])
    phrases += ((target,),)  # unlikely although the data has it
    batch |= {'decoder_segment_ids': np.repeat([[1] * 5 + [2] * 7], 4, axis=0).astype(np.int32)}
    inputs = inputs_of(model, params, batch)
    plain, _ = wrap(LOSSES['words'])(inputs)
    wrapper = Unlikelihood(weight=0.3, phrases=phrases, repeat_window=window)
    value, metrics = jax.jit(lambda: wrap(LOSSES['words'], (wrapper,))(inputs))()
    h_BLD = LOSSES['words'].predict(model, params, inputs.batch)
    logits = np.float64(model.apply({'params': params}, h_BLD, method=lambda m, h: m.embed.attend(h)))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    total = expected(batch, p / p.sum(-1, keepdims=True), phrases, window)
    assert total > 1e-3
    assert float(value - plain) == pytest.approx(0.3 * total, rel=2e-3)
    assert metrics['unlikelihood'].value() == pytest.approx(total / batch['decoder_loss_weights'].sum(), rel=2e-3)


def test_a_certain_token_still_has_a_gradient():
    """Where 1 − p rounds to 0, the loss stays finite and pushes the token down."""
    embedding = jnp.eye(4)
    h = jnp.array([[[60.0, 0.0, 0.0, 0.0]]])

    def loss(h):
        none, ones = jnp.full((1, 1, 1), 4), jnp.ones((1, 1))
        return unlikelihood(h, embedding, jnp.array([[1]]), ones, none, jnp.arange(4) == 0, 1.0)

    value, gradient = jax.value_and_grad(loss)(h)
    assert float(value) == pytest.approx(60 - np.log(3), rel=1e-5)
    np.testing.assert_allclose(gradient[0, 0], [1, -1 / 3, -1 / 3, -1 / 3], rtol=1e-5)


def test_chunks_add_up():
    rng = np.random.default_rng(0)
    h, embedding = rng.normal(size=(2, 7, 5)).astype(np.float32), rng.normal(size=(11, 5)).astype(np.float32)
    targets, candidates = rng.integers(0, 11, (2, 7)), rng.integers(0, 13, (2, 7, 3))
    weights = (rng.uniform(size=(2, 7)) < 0.6).astype(np.float32)
    of = lambda *chunk: unlikelihood(h, embedding, targets, weights, candidates, np.arange(11) == 4, 0.7, *chunk)  # noqa: E731
    whole, chunks, weighted = map(float, jax.jit(lambda: (of(0), of(3), of(3, True)))())
    assert chunks == pytest.approx(whole, rel=1e-5) and weighted == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
def test_training_makes_a_token_unlikely_and_resumes_bit_for_bit():
    wrappers = (Unlikelihood(weight=5.0, phrases=((7,), (9,)), repeat_window=4),)
    whole, last = trained_for(4, 'words', wrappers, **OPTIONS)
    part, first = trained_for(1, 'words', wrappers, **OPTIONS)
    again, same = trained_for(3, 'words', wrappers, jax.tree.map(np.asarray, part), **OPTIONS)
    jax.tree.map(np.testing.assert_array_equal, (whole, last), (again, same))
    assert last['unlikelihood'].value() < first['unlikelihood'].value()


def test_phrases_are_encoded_as_they_occur(tmp_path):
    (tmp_path / 'words.txt').write_text('bad\n\nso so\n')
    ids = lambda text: tuple(3 + byte for byte in text.encode())  # noqa: E731
    forms = ('bad', ' bad', 'Bad', ' Bad', 'so so', ' so so', 'So so', ' So so')
    assert token_ids(str(tmp_path / 'words.txt'), 'bytes') == tuple(map(ids, forms))
    assert token_ids(['笨'], 'bytes') == (ids('笨'), ids(' 笨')) and token_ids([], 'nowhere.model') == ()
    with pytest.raises(UserError, match=r'cannot be read.*For one phrase write'):
        token_ids('bad', 'bytes')
    with pytest.raises(UserError, match='every phrase must be a text'):
        token_ids(['a', ' '], 'bytes')


def test_what_it_cannot_train_is_refused():
    with pytest.raises(UserError, match='is for models that generate text'):
        Unlikelihood(repeat_window=3).check(build('class')[0])
    with pytest.raises(UserError, match='nothing that is not to be generated'):
        Unlikelihood().check(build('words')[0])
