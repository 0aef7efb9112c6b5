"""Saving, restoring, starting from another run's parameters."""

import dataclasses
import json
import logging

import jax
import numpy as np
import pytest

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.errors import UserError
from palm_jax.training import optimizers, schedules, state
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.initial_parameters import fingerprint, restore_params
from palm_jax.training.metrics import Ratio

METADATA = CheckpointMetadata(vocabulary='bytes')


@pytest.fixture
def current(micro):
    _, params = micro()
    optimizer = optimizers.adafactor(schedules.constant(1e-2))
    return state.TrainState(jax.numpy.asarray(3), params, optimizer.init(params))


def fresh(tree):
    return jax.tree.map(jax.numpy.zeros_like, tree)


@pytest.fixture
def saved(tmp_path, current):
    checkpoints = Checkpoints(tmp_path / 'run' / 'checkpoints', keep=2, metadata=METADATA)
    for step in (1, 2, 3):
        checkpoints.save(current, step)
    checkpoints.save(current, 3)  # again: nothing happens
    checkpoints.close()
    return tmp_path / 'run'


def test_the_state_comes_back_bit_for_bit_and_old_steps_go(saved, current):
    checkpoints = Checkpoints(saved / 'checkpoints', keep=2, metadata=METADATA)
    assert checkpoints.latest == 3 and {p.name for p in (saved / 'checkpoints').iterdir()} == {'2', '3'}
    restored, unlogged = checkpoints.restore(fresh(current))
    assert unlogged is None
    jax.tree.map(np.testing.assert_array_equal, restored, current)
    checkpoints.close()


def test_another_vocabulary_is_refused_with_both_names(saved, current):
    checkpoints = Checkpoints(
        saved / 'checkpoints', keep=2, metadata=CheckpointMetadata(vocabulary='sentencepiece_9_x')
    )
    with pytest.raises(UserError, match=r'(?s)bytes.*sentencepiece_9_x'):
        checkpoints.restore(fresh(current))
    checkpoints.close()


@pytest.mark.parametrize('path', ['', 'checkpoints', 'checkpoints/2'])
def test_parameters_of_another_run(saved, current, path):
    params = restore_params(str(saved / path), fresh(current.params), METADATA)
    jax.tree.map(np.testing.assert_array_equal, params, current.params)


def test_what_does_not_fit_is_listed(saved, micro, tmp_path):
    _, wider = micro(mlp_dim=40)
    with pytest.raises(UserError, match=r'stack/mlp/in/gate: \(3, 24, 96\) there, \(3, 24, 40\) here'):
        restore_params(str(saved), wider, METADATA)
    _, serial = micro(parallel=False)
    with pytest.raises(UserError, match='stack/mlp_norm/scale: missing there'):
        restore_params(str(saved), serial, METADATA)
    with pytest.raises(UserError, match='not a checkpoint'):
        restore_params(str(tmp_path / 'none'), serial, METADATA)


def test_metrics_that_were_not_logged_yet_come_back_exactly(tmp_path, current):
    sums = {'loss': Ratio(0.1 + 0.2, 3.0), 'accuracy': Ratio(1 / 3, 7.0)}
    checkpoints = Checkpoints(tmp_path, keep=1, metadata=METADATA)
    checkpoints.save(current, 3, sums)
    checkpoints.wait()
    _, unlogged = checkpoints.restore(fresh(current))
    assert unlogged == sums
    checkpoints.close()


def test_a_frozen_base_is_left_out_and_another_one_refused(tmp_path, current):
    stack = current.params['stack']
    rest = {name: value for name, value in current.params.items() if name != 'stack'}
    state_ = dataclasses.replace(current, params={'stack': stack}, frozen=rest)
    checkpoints = Checkpoints(tmp_path, keep=1, metadata=dataclasses.replace(METADATA, base=fingerprint(rest)))
    checkpoints.save(state_, 3)
    checkpoints.close()
    files = ''.join(str(path) for path in tmp_path.rglob('*')) + (tmp_path / '3/state/_METADATA').read_text()
    assert 'attn' in files and 'embedding' not in files.replace("'embed'", '').split('opt_state')[0]
    checkpoints = Checkpoints(tmp_path, keep=1, metadata=dataclasses.replace(METADATA, base=fingerprint(rest)))
    restored, _ = checkpoints.restore(dataclasses.replace(fresh(state_), frozen=rest))
    jax.tree.map(np.testing.assert_array_equal, restored, state_)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=1, metadata=dataclasses.replace(METADATA, base='another'))
    with pytest.raises(UserError, match=r'on top of the base .* INITIAL_CHECKPOINT_PATH holds another'):
        checkpoints.restore(fresh(state_))
    checkpoints.close()


def test_a_fingerprint_sees_every_change_and_no_layout(current):
    params = {'a': jax.numpy.arange(12.0).reshape(3, 4), 'b': {'c': jax.numpy.ones((2,), jax.numpy.bfloat16)}}
    name = fingerprint(params)
    assert fingerprint(jax.tree.map(lambda x: x + 0, params)) == name
    swapped = params | {'a': params['a'].at[0].set(params['a'][1]).at[1].set(params['a'][0])}
    for other in (
        params | {'a': params['a'].at[2, 3].add(1e-5)},
        swapped,
        params | {'a': params['a'].reshape(4, 3)},
        params | {'d': params['a']},
        {'a': params['a'], 'b': {'c': -params['b']['c']}},
    ):
        assert fingerprint(other) != name


@pytest.mark.parametrize('folder', ['metadata', 'about'])  # as it is called now, and as it was
def test_parameters_are_read_without_a_warning(saved, current, caplog, folder):
    checkpoint = saved / 'checkpoints' / '3'
    (checkpoint / 'metadata' / 'metadata').write_text(json.dumps({'vocabulary': 'bytes'}))
    (checkpoint / 'metadata').rename(checkpoint / folder)
    for file in checkpoint.glob('checksums-*.json'):
        file.unlink()
    restore_params(checkpoint, fresh(current.params), METADATA)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
