"""Learning without forgetting: its loss against NumPy for every kind of prediction."""

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

from palm_jax.errors import UserError
from palm_jax.peft.trainable import join
from palm_jax.training.loss_wrappers.ewc import EWC
from palm_jax.training.loss_wrappers.lwf import LwF
from palm_jax.training.loss_wrappers.wrapper import wrap
from tests.support.wrapped import LOSSES, build, features, inputs_of, trained_for, write_fisher

ALL = {'methods': (), 'trainable': ('.*',), 'dropout_rate': 0.0}
PART = {'methods': (), 'trainable': ('final_norm/.*', 'head/.*')}
T = 1.7


def moved(kind, **options):
    """The parameters of the start, and others."""
    _, selection, start = build(kind, **options)
    trained, frozen = selection.split(start)
    leaves, tree = jax.tree.flatten(trained)
    rng = np.random.default_rng(1)
    return start, join(tree.unflatten([x + rng.normal(0, 0.05, x.shape).astype(np.float32) for x in leaves]), frozen)


def kl(p, q):
    return (np.exp(p) * (p - q)).sum(-1)


@pytest.mark.parametrize('kind', ['class', 'words', pytest.param('number', marks=pytest.mark.slow)])
def test_the_loss_is_that_of_the_paper(kind):
    model, _, _ = build(kind, **ALL)
    start, now = moved(kind, **ALL)
    batch, loss = features(kind), LOSSES[kind]
    inputs = inputs_of(model, now, batch).replace(start=start)
    plain, _ = wrap(loss)(inputs)
    value, metrics = jax.jit(lambda: wrap(loss, (LwF(weight=0.5, temperature=T),))(inputs))()
    earlier, later = (loss.predict(model, params, batch) for params in (start, now))
    if kind == 'words':  # the output matrix has moved, too
        logits = [
            np.float64(model.apply({'params': params}, h, method=lambda m, h: m.embed.attend(h)))
            for params, h in ((start, earlier), (now, later))
        ]
        of_each, weights = kl(*(log_softmax(x / T, axis=-1) for x in logits)), batch['decoder_loss_weights']
    else:
        scores = [np.float64(x.scores) for x in (earlier, later)]
        weights = batch['label_weights']
        of_each = kl(*(log_softmax(x / T, axis=-1) for x in scores))
        if kind == 'number':
            of_each = np.square((scores[0] - scores[1]) / T)[:, 0]
    expected = (of_each * weights).sum()
    assert expected > 1e-4
    assert float(value - plain) == pytest.approx(0.5 * expected, rel=2e-3)
    assert metrics['drift'].value() == pytest.approx(expected / weights.sum(), rel=2e-3)


def test_nothing_pulls_at_the_start_and_the_earlier_model_has_no_gradient():
    model, _, _ = build('class', **ALL)
    start, now = moved('class', **ALL)

    @jax.jit
    def drift(params, start):
        inputs = inputs_of(model, params, features('class')).replace(start=start)
        return wrap(LOSSES['class'], (LwF(),))(inputs)[1]['drift'].total

    assert float(drift(start, start)) == pytest.approx(0, abs=1e-6)
    of_now, of_start = jax.jit(jax.grad(drift, (0, 1)))(now, start)
    assert not any(np.any(g) for g in jax.tree.leaves(of_start)) and any(np.any(g) for g in jax.tree.leaves(of_now))


def test_runs_continue_bit_for_bit_and_methods_work_together(tmp_path):
    wrappers = (LwF(), EWC(file=write_fisher(tmp_path / 'f.npz', **PART)))
    whole, metrics = trained_for(3, 'class', wrappers, **PART)
    part, _ = trained_for(1, 'class', wrappers, **PART)
    again, same = trained_for(2, 'class', wrappers, jax.tree.map(np.asarray, part), **PART)
    jax.tree.map(np.testing.assert_array_equal, (whole, metrics), (again, same))
    assert {'drift', 'ewc_penalty'} <= metrics.keys() and metrics['drift'].value() > 0
    jax.tree.map(np.testing.assert_array_equal, part.anchor, whole.anchor)


def test_a_head_that_the_earlier_model_lacks_is_refused():
    with pytest.raises(UserError, match=r'no head for these labels.*same labels'):
        LwF().fill({}, {'head/kernel', 'head/bias'}, ('a', 'b'))
    assert LwF(weight=0.0).fill({}, {'head/kernel'}, None) == {}
