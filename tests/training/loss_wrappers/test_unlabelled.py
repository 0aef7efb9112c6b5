"""Pseudo-labels, FixMatch and UDA against their formulas in NumPy."""

import jax
import numpy as np
import pytest
import scipy.special

from palm_jax.errors import UserError
from palm_jax.training.loss_wrappers.fixmatch import FixMatch
from palm_jax.training.loss_wrappers.pseudo_label import PseudoLabel
from palm_jax.training.loss_wrappers.uda import UDA
from palm_jax.training.loss_wrappers.wrapper import wrap
from tests.support.wrapped import LOSSES, build, features, inputs_of, outcome

RATIO = 2


def batch_of():
    """A labelled batch with two texts beside each row, of which some classes are known."""
    batch, rng = features('class'), np.random.default_rng(5)
    for view in ('unlabelled', 'unlabelled_strong'):
        batch[f'{view}_tokens'] = rng.integers(3, 61, (4, RATIO, 12)).astype(np.int32)
        batch[f'{view}_segment_ids'] = np.ones((4, RATIO, 12), np.int32)
    batch['unlabelled_labels'] = rng.integers(-1, 3, (4, RATIO)).astype(np.int32)
    return batch


def scores(batch):
    """Scores of both views and of the labelled rows without dropout, float64."""
    model, _, params = build('class', dropout_rate=0.0)

    def of(tokens, segments):
        score = jax.jit(lambda p: model.apply({'params': p}, tokens, None, segments, method='scores'))
        return np.asarray(score(params), np.float64)

    flat = {name: x.reshape(-1, 12) for name, x in batch.items() if x.ndim == 3}
    weak, strong = (of(flat[f'{v}_tokens'], flat[f'{v}_segment_ids']) for v in ('unlabelled', 'unlabelled_strong'))
    return weak, strong, of(batch['decoder_input_tokens'], batch['decoder_segment_ids'])


def found(wrapper):
    value, metrics, gradient = outcome('class', (wrapper,), batch_of(), dropout_rate=0.0)
    plain, _, _ = outcome('class', (), batch_of(), dropout_rate=0.0)
    return (float(value) - float(plain)) / 3, metrics, gradient  # three rows count


def test_fixmatch():
    batch = batch_of()
    weak, strong, _ = scores(batch)
    p = scipy.special.softmax(weak, axis=-1)
    threshold = float(np.median(p.max(axis=-1)))
    confident, labels = p.max(axis=-1) >= threshold, p.argmax(axis=-1)
    nll = scipy.special.logsumexp(strong, axis=-1) - strong[np.arange(8), labels]
    added, metrics, gradient = found(FixMatch(weight=0.7, threshold=threshold - 1e-6))
    np.testing.assert_allclose(added, 0.7 * np.where(confident, nll, 0).mean(), rtol=2e-4)
    np.testing.assert_allclose(metrics['confident'].value(), confident.mean())
    known = confident & (batch['unlabelled_labels'].reshape(-1) >= 0)
    right = known & (labels == batch['unlabelled_labels'].reshape(-1))
    np.testing.assert_allclose(metrics['pseudo_accuracy'].value(), right.sum() / known.sum())
    assert np.abs(gradient['head']['kernel']).max() > 0


def test_uda():
    weak, strong, _ = scores(batch_of())
    sharp = scipy.special.softmax(weak / 0.5, axis=-1)
    kl = scipy.special.rel_entr(sharp, scipy.special.softmax(strong, axis=-1)).sum(axis=-1)
    added, metrics, _ = found(UDA(weight=2.0, temperature=0.5))
    np.testing.assert_allclose(added, 2.0 * kl.mean(), rtol=2e-4)
    assert metrics['confident'].value() == 1.0


@pytest.mark.parametrize(
    ('schedule', 'a', 'size'),
    [('linear', lambda t: t, 1), ('exp', lambda t: np.exp(5 * (t - 1)), 1), ('linear', lambda t: t, 0.01)],
)
def test_the_schedule_of_trust(schedule, a, size):
    batch = batch_of()
    batch['label_weights'] = batch['label_weights'] * np.float32(size)  # which may sum to less than 1
    *_, labelled = scores(batch)
    log_p = scipy.special.log_softmax(labelled, axis=-1)[np.arange(4), batch['labels']]
    trust = a(0.4) * (1 - 1 / 3) + 1 / 3
    weights = batch['label_weights'] * (np.exp(log_p) <= trust)
    assert 0 < weights.sum() < 3 or schedule == 'exp'
    model, _, params = build('class', dropout_rate=0.0)
    uda = UDA(weight=1e-9, schedule=schedule, total_steps=10)
    value, metrics = jax.jit(lambda p: wrap(LOSSES['class'], (uda,))(inputs_of(model, p, batch, at=4)))(params)
    np.testing.assert_allclose(value, -(weights * log_p).sum() / (weights.sum() or 1) * 3 * size, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(metrics['loss'].total, -(batch['label_weights'] * log_p).sum(), rtol=2e-4)


def test_the_other_schedule_and_the_weight_of_pseudo_labels():
    uda = UDA(schedule='log', total_steps=100)
    np.testing.assert_allclose(uda.trust_at(40, 5), (1 - np.exp(-2)) * 0.8 + 0.2, rtol=1e-6)
    pseudo = PseudoLabel(weight=3.0, begin=0.1, end=0.5, total_steps=100)
    weights = [float(pseudo.weight_at(step)) for step in (0, 10, 30, 50, 99)]
    np.testing.assert_allclose(weights, [0, 0, 1.5, 3, 3], rtol=1e-6)
    for at, step, share in ((0.0, 0, 1), (0.5, 49, 0), (0.5, 50, 1), (1.0, 99, 0)):  # at once
        assert float(PseudoLabel(weight=3.0, begin=at, end=at, total_steps=100).weight_at(step)) == 3 * share
    with pytest.raises(UserError, match=r'PSEUDO_LABEL_END is 0\.2, before PSEUDO_LABEL_BEGIN = 0\.3'):
        PseudoLabel(begin=0.3, end=0.2)


def test_without_unlabelled_texts_or_a_class_per_text_it_is_refused():
    model, _, params = build('class', dropout_rate=0.0)
    with pytest.raises(UserError, match=r'gin/methods/unlabelled\.gin'):
        jax.eval_shape(lambda: wrap(LOSSES['class'], (FixMatch(),))(inputs_of(model, params, features('class'))))
    with pytest.raises(UserError, match='FixMatch needs a class per text'):
        FixMatch().check(build('tokens')[0])
