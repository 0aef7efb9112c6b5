"""The diagonal Fisher information against explicit gradients of every row, and its file."""

import jax
import numpy as np
import pytest
from scipy.special import softmax

from palm_jax.errors import UserError
from palm_jax.peft.method import AdaptedModel
from palm_jax.training import fisher
from palm_jax.training.fisher import Fisher
from tests.support.wrapped import LOSSES, build, features


@pytest.fixture(scope='module')
def softmax_regression():
    """A classifier, its batch, and in NumPy its pooled features and probabilities."""
    model, _, params = build('class', methods=(), trainable=('.*',))
    batch = features('class')
    prediction = LOSSES['class'].predict(model, params, batch)
    is_token = batch['decoder_segment_ids'][..., None]
    h_BD = (np.asarray(prediction.features) * is_token).sum(1) / is_token.sum(1)
    p_BC = softmax(np.asarray(prediction.scores, np.float64), axis=-1)
    np.testing.assert_allclose(h_BD @ params['head']['kernel'] + params['head']['bias'], prediction.scores, rtol=1e-4)
    return model, params, batch, h_BD, p_BC


def test_the_empirical_fisher_is_the_mean_of_squared_gradients_of_single_rows(softmax_regression):
    model, params, batch, h_BD, p_BC = softmax_regression
    found = fisher.diagonal(model, params, LOSSES['class'], batch, 'data')
    counted = batch['label_weights'] > 0
    g_BC = (p_BC - np.eye(p_BC.shape[1])[batch['labels']])[counted]
    np.testing.assert_allclose(found['head/bias'], np.square(g_BC).mean(0), rtol=1e-4)
    g_BDC = h_BD[counted][:, :, None] * g_BC[:, None]
    np.testing.assert_allclose(found['head/kernel'], np.square(g_BDC).mean(0), rtol=1e-3)
    mean = np.square(g_BDC.mean(0))  # of the gradient of the batch: something else
    assert np.abs(found['head/kernel'] - mean).max() > 0.1 * mean.max()


def test_the_fisher_of_drawn_labels_is_the_expectation_over_the_models_own(softmax_regression):
    model, params, batch, _, p_BC = softmax_regression
    rows = {name: np.repeat(x[:1], 400, axis=0) for name, x in batch.items()}
    found = fisher.diagonal(model, params, LOSSES['class'], rows, 'model')['head/bias']
    p = p_BC[0]
    expected = p * (1 - p)  # Σ_c p_c·(p_i − 1[i = c])²
    error = np.sqrt(np.square(np.square(1 - p) - np.square(p)) * p * (1 - p) / 400)
    assert np.all(np.abs(found - expected) < 5 * error + 1e-6)
    assert np.abs(found - expected).max() > 0  # drawn, not computed
    again = fisher.diagonal(model, params, LOSSES['class'], rows, 'model', seed=0)['head/bias']
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize('kind', ['words', 'labels', pytest.param('number', marks=pytest.mark.slow)])
def test_every_kind_of_prediction_draws_targets_of_its_own_kind(kind):
    model, _, params = build(kind, methods=(), trainable=('.*',))
    loss, batch = LOSSES[kind].likelihood(), features(kind)
    prediction = loss.predict(model, params, batch)
    drawn = loss.with_sampled_targets(prediction, model, params, batch, jax.random.key(2))
    name = 'decoder_target_tokens' if kind == 'words' else 'labels'
    assert drawn[name].shape == batch[name].shape and np.any(np.asarray(drawn[name]) != batch[name])
    if kind == 'words':
        value, metrics = loss.of_prediction(prediction, model, params, batch)
        np.testing.assert_allclose(value, metrics['loss'].total)  # no z-loss
        logits = model.apply({'params': params}, prediction, method=lambda m, h: m.embed.attend(h))
        many = jax.vmap(lambda k: loss.with_sampled_targets(prediction, model, params, batch, k)[name][0, 3])(
            jax.random.split(jax.random.key(0), 2000)
        )
        share = np.bincount(np.asarray(many), minlength=logits.shape[-1]) / 2000
        assert np.abs(share - softmax(np.asarray(logits[0, 3]))).max() < 0.05
    if kind == 'labels':
        assert set(np.unique(drawn[name])) <= {0.0, 1.0}


def test_earlier_tasks_are_added_with_decay(tmp_path):
    first = Fisher({'a': np.float32([1, 2]), 'head/kernel': np.float32([4])}, ('x', 'y'))
    second = Fisher({'a': np.float32([10, 20]), 'head/kernel': np.float32([40])}, ('x', 'y'))
    both = second.after(first, 0.5)
    np.testing.assert_array_equal(both.values['a'], [10.5, 21])
    np.testing.assert_array_equal(both.values['head/kernel'], [42])
    other_head = Fisher(second.values | {'head/kernel': np.float32([40, 41])}, ('x', 'z'))
    np.testing.assert_array_equal(other_head.after(first, 1.0).values['head/kernel'], [40, 41])
    with pytest.raises(UserError, match='has no a of that shape'):
        second.after(Fisher({'a': np.float32([1])}), 1.0)
    both.write(tmp_path / 'f.npz')
    read = fisher.read(str(tmp_path / 'f.npz'))
    assert read.labels == ('x', 'y') and read.values.keys() == both.values.keys()
    (tmp_path / 'other.npz').write_text('text')
    for path, message in ((None, 'FISHER_FILE is not set'), (str(tmp_path / 'other.npz'), 'cannot be read')):
        with pytest.raises(UserError, match=message):
            fisher.read(path)
    whole = (tmp_path / 'f.npz').read_bytes()
    for damaged in (b'', whole[:9], whole[: len(whole) // 2], whole[:-30], whole[:60] + bytes(20) + whole[80:]):
        (tmp_path / 'f.npz').write_bytes(damaged)
        with pytest.raises(UserError, match='cannot be read: is it what palm-jax fisher wrote'):
            fisher.read(str(tmp_path / 'f.npz'))


def test_a_loss_without_a_likelihood_is_refused():
    with pytest.raises(UserError, match='object has no likelihood'):
        fisher.diagonal(AdaptedModel(None), {}, object(), {})
