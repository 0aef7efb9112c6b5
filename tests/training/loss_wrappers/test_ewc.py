"""EWC: its penalty against NumPy, with and without LoRA, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.parameters import leaves_by_path
from palm_jax.peft.adapter import Adapter
from palm_jax.peft.trainable import join
from palm_jax.training.fisher import Fisher
from palm_jax.training.loss_wrappers.ewc import EWC
from palm_jax.training.loss_wrappers.wrapper import anchor_of
from tests.support.wrapped import build, write_fisher

ALL = {'methods': (), 'trainable': ('.*',)}


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    return write_fisher(tmp_path_factory.mktemp('fisher') / 'f.npz', **ALL)


def squares(file, now, then):
    """½·Σ F·(now − then)² in NumPy, of leaves by path."""
    with np.load(file) as f:
        return sum(
            0.5 * (f[path] * np.square(np.float64(now[path]) - np.float64(then[path]))).sum()
            for path in now
            if path in f
        )


def value_and_gradient(wrapper, now, then, anchor, **options):
    model, selection, params = build('class', **options)
    _, frozen = selection.split(params)
    of = lambda p: wrapper.penalty(model, join(p, frozen), join(then, frozen), anchor)  # noqa: E731
    return jax.jit(jax.value_and_grad(of))(now)


def anchored(wrapper, **options):
    """The trained parameters and the anchor of a run that begins."""
    model, selection, params = build('class', **options)
    trained, _ = selection.split(params)
    return trained, wrapper.fill(anchor_of((wrapper,), model, params, trained), (), None)


def test_the_penalty_of_all_weights_is_that_of_the_paper(file):
    wrapper = EWC(weight=3.0, file=file)
    start, anchor = anchored(wrapper, **ALL)
    moved = jax.tree.map(lambda x: x + 0.01, start)
    now, then = leaves_by_path(moved), leaves_by_path(start)
    value, gradient = value_and_gradient(wrapper, moved, start, anchor, **ALL)
    assert float(value) == pytest.approx(3 * squares(file, now, then), rel=1e-4)
    assert leaves_by_path(anchor['fisher']).keys() == now.keys()
    with np.load(file) as f:
        for path, g in leaves_by_path(gradient).items():
            np.testing.assert_allclose(g, 3 * f[path] * (now[path] - then[path]), rtol=1e-4, atol=1e-7)


def test_lora_is_held_by_the_change_of_the_kernels(file):
    wrapper = EWC(weight=2.0, file=file)
    model, _, params = build('class')
    start, anchor = anchored(wrapper)
    moved = jax.tree.map(lambda x: x * 1.1, start)
    value, _ = value_and_gradient(wrapper, moved, start, anchor)
    lora = model.methods[0]

    def kernels(trained):
        found = {path: np.float64(x) for path, x in leaves_by_path(trained).items() if path.startswith('head/')}
        base = leaves_by_path(params)
        for path, a in leaves_by_path(trained).items():
            if path.endswith('_a'):
                kernel = path.replace('lora/', '')[:-2]
                b = np.float64(leaves_by_path(trained)[path[:-2] + '_b'])
                rank, shape = b.shape[1], base[kernel].shape
                delta = np.einsum('ndr,nrf->ndf', np.float64(a).reshape(len(b), -1, rank), b.reshape(len(b), rank, -1))
                found[kernel] = np.float64(base[kernel]) + lora.scale * delta.reshape(shape)
        return found

    expected = 2 * squares(file, kernels(moved), kernels(start))
    assert float(value) == pytest.approx(expected, rel=1e-3) and expected > 0
    assert leaves_by_path(anchor['fisher']).keys() == kernels(moved).keys()  # what cannot change has none


def test_what_it_cannot_hold_is_refused(file, tmp_path):
    model, selection, params = build('class', methods=(Adapter(),))
    with pytest.raises(UserError, match=r'EWC holds the weights of the base. Adapter cannot be merged.*lora.gin'):
        anchor_of((EWC(file=file),), model, params, selection.split(params)[0])
    model, selection, params = build('class', **ALL)
    trained, _ = selection.split(params)
    Fisher({'embed/embedding': np.zeros((3, 4), np.float32)}).write(tmp_path / 'other.npz')
    wrapper = EWC(file=str(tmp_path / 'other.npz'))
    anchor = jax.tree.map(jnp.asarray, anchor_of((wrapper,), model, params, trained))
    with pytest.raises(UserError, match=r'other.npz.* is of another model: embed/embedding is \(3, 4\) there'):
        wrapper.fill(anchor, (), None)


def test_a_new_head_is_free(file):
    model, selection, params = build('class', **ALL)
    trained, _ = selection.split(params)
    wrapper = EWC(file=file)
    anchor = anchor_of((wrapper,), model, params, trained)
    for filled in (wrapper.fill(anchor, {'head/kernel', 'head/bias'}, None), wrapper.fill(anchor, (), ('a', 'b', 'c'))):
        found = leaves_by_path(filled['fisher'])
        assert not np.any(found['head/kernel']) and np.any(found['embed/embedding'])
