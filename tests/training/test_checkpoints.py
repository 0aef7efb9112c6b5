"""Saving, restoring, starting from another run's parameters."""

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from palm_jax.errors import UserError
from palm_jax.training import optimizers, schedules, state
from palm_jax.training.checkpoints import Checkpoints, restore_params

ABOUT = {'vocabulary': 'bytes'}


@pytest.fixture
def current(micro):
    _, params = micro()
    optimizer = optimizers.adafactor(schedules.constant(1e-2))
    return state.TrainState(jax.numpy.asarray(3), params, optimizer.init(params))


def like(tree):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    return shapes, jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), tree)


@pytest.fixture
def saved(tmp_path, current):
    checkpoints = Checkpoints(tmp_path / 'run' / 'checkpoints', keep=2, about=ABOUT)
    for step in (1, 2, 3):
        checkpoints.save(current, step)
    checkpoints.save(current, 3)  # again: nothing happens
    checkpoints.close()
    return tmp_path / 'run'


def test_the_state_comes_back_bit_for_bit_and_old_steps_go(saved, current):
    checkpoints = Checkpoints(saved / 'checkpoints', keep=2, about=ABOUT)
    assert checkpoints.latest == 3 and {p.name for p in (saved / 'checkpoints').iterdir()} == {'2', '3'}
    restored = checkpoints.restore(*like(current))
    jax.tree.map(np.testing.assert_array_equal, restored, current)
    checkpoints.close()


def test_another_vocabulary_is_refused_with_both_names(saved, current):
    checkpoints = Checkpoints(saved / 'checkpoints', keep=2, about={'vocabulary': 'sentencepiece_9_x'})
    with pytest.raises(UserError, match=r'(?s)bytes.*sentencepiece_9_x'):
        checkpoints.restore(*like(current))
    checkpoints.close()


@pytest.mark.parametrize('path', ['', 'checkpoints', 'checkpoints/2'])
def test_parameters_of_another_run(saved, current, path):
    params = restore_params(str(saved / path), *like(current.params), ABOUT)
    jax.tree.map(np.testing.assert_array_equal, params, current.params)


def test_what_does_not_fit_is_listed(saved, micro, tmp_path):
    _, wider = micro(mlp_dim=40)
    with pytest.raises(UserError, match=r'stack/mlp/in/gate: \(3, 24, 96\) there, \(3, 24, 40\) here'):
        restore_params(str(saved), *like(wider), ABOUT)
    _, serial = micro(parallel=False)
    with pytest.raises(UserError, match='stack/mlp_norm/scale: missing there'):
        restore_params(str(saved), *like(serial), ABOUT)
    with pytest.raises(UserError, match='no checkpoint'):
        restore_params(str(tmp_path / 'none'), *like(serial), ABOUT)
