"""The best checkpoint by a measure, and the end of patience."""

import math

import jax
import numpy as np
import pytest

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory, find_checkpoint
from palm_jax.training import optimizers, schedules, state
from palm_jax.training.best import BestCheckpoint, BestMetric, best_metric


@pytest.fixture
def states(micro):
    model, _ = micro()
    optimizer = optimizers.adamw(schedules.constant(1e-3))
    init = jax.jit(lambda rng: state.unbox(state.init_state(model, optimizer, rng)))
    return [init(jax.random.key(seed)) for seed in range(4)]


def test_larger_is_better_but_for_losses_and_errors():
    assert BestMetric('accuracy').is_better(0.9, 0.8) and not BestMetric('accuracy').is_better(0.8, 0.8)
    for name in ('loss', 'squared_error', 'perplexity', 'calibration_error'):
        assert BestMetric(name).is_better(0.8, 0.9) and not BestMetric(name).is_better(0.9, 0.8)
    assert BestMetric('loss').is_better(3.0, None) and not BestMetric('pearson').is_better(math.nan, None)


def test_the_best_is_kept_found_again_and_preferred(tmp_path, states):
    metadata, folder = CheckpointMetadata(vocabulary='bytes'), RunDirectory(tmp_path).best_checkpoints
    leader = BestCheckpoint(BestMetric('loss', patience=2), folder, metadata, period=10)
    for step, (value, s) in enumerate(zip((3.0, 2.0, 2.5, 2.2), states, strict=True), 1):
        leader.offer(s, 10 * step, {'loss': value, 'accuracy': 0.5})
        assert leader.has_stalled(10 * step) == (step == 4)
    assert leader.step == 20
    leader.close()

    # A run that was killed evaluates again, with the same values, and keeps the same.
    again = BestCheckpoint(BestMetric('loss', patience=2), folder, metadata, period=10)
    again.offer(states[0], 10, {'loss': 3.0})
    again.offer(states[2], 30, {'loss': 2.5})
    assert again.step == 20 and again.has_stalled(40) and not again.has_stalled(39)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), states[0])
    restored = again.restore(shapes)
    again.close()
    jax.tree.map(np.testing.assert_array_equal, restored.params, states[1].params)
    (tmp_path / 'checkpoints' / '40' / 'state').mkdir(parents=True)
    assert find_checkpoint(tmp_path) == tmp_path / 'best' / '20'


def test_an_unknown_measure_names_what_exists(tmp_path, states):
    leader = BestCheckpoint(BestMetric('acuracy'), tmp_path, CheckpointMetadata(), 1)
    with pytest.raises(UserError, match=r"'acuracy'.*mean accuracy.* It computes: accuracy, loss"):
        leader.offer(states[0], 1, {'loss': 1.0, 'accuracy': 1.0})
    leader.close()


def test_gin_names_a_measure_or_none():
    assert best_metric() is None and best_metric('loss', 3) == BestMetric('loss', 3)
    with pytest.raises(UserError, match='PATIENCE needs a metric'):
        best_metric(None, 3)
    with pytest.raises(UserError, match='at least 1'):
        best_metric('loss', 0)
