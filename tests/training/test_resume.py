"""Where the state of a run comes from: its own checkpoint, an initial checkpoint, or scratch."""

import contextlib
import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.metrics import Ratio
from palm_jax.training.resume import Restorer
from tests.support.metadata import METADATA

NORMS = ['.*scale']  # all that is trained where a base stays frozen


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def at_step(state, step):
    return dataclasses.replace(state, step=jnp.int32(step), params=jax.tree.map(lambda x: x + step, state.params))


def opened(directory, restorer):
    return contextlib.closing(Checkpoints(directory, 2, restorer.metadata))


def test_scratch_is_a_function_of_the_seed(setup, mesh, tmp_path):
    states = []
    for seed in (3, 3, 4):
        restorer = Restorer(setup(), mesh, seed, None, METADATA)
        with opened(tmp_path / 'checkpoints', restorer) as checkpoints:
            restored = restorer.resume(checkpoints)
        assert int(restored.state.step) == 0 and restored.sums is None and restored.recent is None
        states.append(restored.state.params)
    assert_same(states[0], states[1])
    with pytest.raises(AssertionError):
        assert_same(states[0], states[2])


def test_the_newest_checkpoint_comes_first_with_what_was_kept_beside_it(setup, mesh, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    restorer = Restorer(setup(), mesh, 3, None, METADATA)
    begun = restorer.begin()
    with opened(tmp_path / 'checkpoints', restorer) as checkpoints:
        for step in (5, 10):
            checkpoints.save(at_step(begun, step), step, {'loss': Ratio(1.5, 2.0)}, {'loss': [1.0 * step]})
        checkpoints.wait()
        restored = Restorer(setup(), mesh, 99, None, METADATA).resume(checkpoints)
        assert_same(restored.state, at_step(begun, 10))
        assert (restored.sums['loss'].total, restored.sums['loss'].count) == (1.5, 2.0)
        assert restored.recent == {'loss': [10.0]}
        assert f'continuing from step 10 of {tmp_path}' in caplog.text
        # A rollback takes an earlier one, or step 0, which is computed again.
        earlier = restorer.restore(checkpoints, 5, begun.frozen)
        assert_same(earlier.state, at_step(begun, 5))
        assert earlier.recent == {'loss': [5.0]}
        first = restorer.restore(checkpoints, 0, begun.frozen)
        assert_same(first.state, begun)
        assert first.sums is None and first.recent is None


@pytest.fixture(scope='module')
def base(setup, mesh, tmp_path_factory):
    """Another run's checkpoint at step 7."""
    directory = tmp_path_factory.mktemp('base')
    restorer = Restorer(setup(), mesh, 11, None, METADATA)
    with opened(directory / 'checkpoints', restorer) as checkpoints:
        checkpoints.save(at_step(restorer.begin(), 7), 7)
    return directory


def test_an_initial_checkpoint_gives_its_parameters_and_nothing_else(setup, mesh, base, tmp_path):
    restorer = Restorer(setup(), mesh, 3, str(base), METADATA)
    assert restorer.metadata.base is None  # nothing is frozen: checkpoints hold everything
    with opened(tmp_path / 'checkpoints', restorer) as checkpoints:
        state = restorer.resume(checkpoints).state
    assert int(state.step) == 0
    assert_same(state.params, at_step(Restorer(setup(), mesh, 11, None, METADATA).begin(), 7).params)


def test_frozen_parameters_are_read_from_the_initial_checkpoint_and_not_saved_again(setup, mesh, base, tmp_path):
    restorer = Restorer(setup(NORMS), mesh, 3, str(base), METADATA)
    assert restorer.metadata.base
    with opened(tmp_path / 'checkpoints', restorer) as checkpoints:
        begun = restorer.resume(checkpoints).state
        checkpoints.save(at_step(begun, 4), 4)
        checkpoints.wait()
        saved = {path.name for path in (tmp_path / 'checkpoints' / '4' / 'state').rglob('*')}
        assert not any('kernel' in name for name in saved)
        again = Restorer(setup(NORMS), mesh, 3, str(base), METADATA).resume(checkpoints).state
        assert_same(again, at_step(begun, 4))
        # After the first step the state's own arrays are donated: the frozen part comes from the newest state.
        rolled_back = restorer.restore(checkpoints, 4, jax.tree.map(jnp.copy, begun.frozen)).state
        assert_same(rolled_back.frozen, begun.frozen)


def test_another_base_is_refused(setup, mesh, base, tmp_path):
    restorer = Restorer(setup(NORMS), mesh, 3, str(base), METADATA)
    with opened(tmp_path / 'other' / 'checkpoints', restorer) as checkpoints:
        checkpoints.save(restorer.begin(), 4)
    scratch = Restorer(setup(NORMS), mesh, 3, None, METADATA)
    with (
        opened(tmp_path / 'other' / 'checkpoints', scratch) as checkpoints,
        pytest.raises(UserError, match=r'base'),
    ):
        scratch.resume(checkpoints)
