"""A run that cannot go on is saved first, where that is possible."""

import contextlib

import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.training import distributed
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.metric_window import MetricWindow
from palm_jax.training.metrics import Ratio
from palm_jax.training.resume import Restorer
from palm_jax.training.saving import StateSaver
from palm_jax.training.spikes import SpikeGuard, SpikeRule
from tests.support.metadata import METADATA


@pytest.fixture
def parts(setup, mesh, tmp_path):
    """Checkpoints, a saver with one step's metrics, a state and what restores it."""
    restorer = Restorer(setup(), mesh, 3, None, METADATA)
    window, guard = MetricWindow(), SpikeGuard(SpikeRule(), tmp_path)
    step_metrics = {name: Ratio(np.float32(6.0), np.float32(2.0)) for name in ('loss', 'gradient_norm')}
    window.add(step_metrics)
    guard.add(12, step_metrics)
    assert guard.first_spike(everything=True) is None
    with contextlib.closing(Checkpoints(tmp_path / 'checkpoints', 2, METADATA)) as checkpoints:
        yield checkpoints, StateSaver(checkpoints, window, guard, 'run it'), restorer.begin(), restorer


def test_metrics_and_usual_values_are_kept_with_the_state(parts):
    checkpoints, saver, state, restorer = parts
    assert saver.newest is None
    saver.save(state, 13)
    checkpoints.wait()
    assert saver.newest == checkpoints.path(13)
    restored = restorer.restore(checkpoints, 13, state.frozen)
    assert restored.sums['loss'].value() == 3.0
    assert restored.recent == {'loss': [3.0], 'gradient_norm': [3.0]}


def test_an_error_that_is_not_the_states_fault_saves_it_and_says_so(parts):
    checkpoints, saver, state, _ = parts
    with (
        pytest.raises(UserError, match=r'(?s)^the file is gone\nStep 13 is saved\. Continue with\n  run it$'),
        saver.saves_on_error(state, 13, in_all_processes=False),
    ):
        raise UserError('the file is gone')
    assert checkpoints.latest == 13
    with (
        pytest.raises(UserError, match=r'^no such metric\nStep 13 is saved\. Name another\.$'),
        saver.saves_on_error(state, 13, in_all_processes=True, advice='Name another.'),
    ):
        raise UserError('no such metric')


def test_other_errors_and_no_error_save_nothing(parts):
    checkpoints, saver, state, _ = parts
    with saver.saves_on_error(state, 13, in_all_processes=True):
        pass
    with pytest.raises(KeyboardInterrupt), saver.saves_on_error(state, 13, in_all_processes=True):
        raise KeyboardInterrupt
    checkpoints.wait()
    assert checkpoints.latest is None


def test_one_of_several_processes_cannot_save_alone(parts, monkeypatch):
    checkpoints, saver, state, _ = parts
    with monkeypatch.context() as patch:
        patch.setattr(distributed, 'are_several', lambda: True)
        with (
            pytest.raises(UserError, match=r'^the file is gone$'),
            saver.saves_on_error(state, 13, in_all_processes=False),
        ):
            raise UserError('the file is gone')
    checkpoints.wait()
    assert checkpoints.latest is None
