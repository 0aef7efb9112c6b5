"""After a rollback nothing remembers the steps that are taken again."""

import contextlib
import json
import time

import jax
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.best import BestCheckpoint, BestMetric
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.clock import RunClock
from palm_jax.training.metric_log import MetricLog
from palm_jax.training.metric_window import MetricWindow
from palm_jax.training.metrics import Ratio
from palm_jax.training.resume import Restorer
from palm_jax.training.rollback import Rollback, finish_interrupted
from palm_jax.training.spikes import Spike, SpikeGuard, SpikeRule
from palm_jax.training.writers import Jsonl, read_jsonl
from tests.support.metadata import METADATA

RULE = SpikeRule(window=6, rewind_steps=4, skip_steps_after=2, max_rollbacks=1)


@pytest.fixture
def run(setup, mesh, tmp_path):
    """A run of twelve steps, saved at 4 and 8, with its rollback and its last state."""
    restorer = Restorer(setup(), mesh, 3, None, METADATA)
    state = restorer.begin()
    window, guard = MetricWindow(), SpikeGuard(RULE, tmp_path)
    with (
        contextlib.closing(Checkpoints(tmp_path / 'checkpoints', 9, METADATA, period=4)) as checkpoints,
        RunClock(0, 20, 1.0, time.monotonic(), lambda step: False) as clock,
    ):
        log = MetricLog([Jsonl()], tmp_path, '', 0)
        for step in (4, 8, 12):
            log.write(step, {'train/loss': 1.0 * step})
            if step < 12:
                checkpoints.save(state, step, {'loss': Ratio(1.0 * step, 1.0)}, {'loss': [1.0 * step]})
        window.add({'loss': Ratio(np.float32(99), np.float32(1))})
        yield Rollback(guard, checkpoints, restorer, window, log, clock, BatchSizes.of(4)), state
        log.close()


def test_everything_is_as_it_was_at_the_step_to_which_the_run_goes_back(run, tmp_path, capsys):
    rollback, state = run
    restored = rollback.before(Spike(9, 'loss is nan'), state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert rollback.checkpoints.steps == [4]  # 8 is less than four steps before the spike
    assert [record['step'] for record in read_jsonl(tmp_path / 'metrics.jsonl')] == [4]
    assert rollback.window.sums()['loss'].value() == 4.0
    assert rollback.guard.recent['loss'] == [4.0]
    (skip,) = json.loads((tmp_path / 'skipped.json').read_text())
    assert skip['step'] == 4 and skip['sequences'] == 4 * (9 + 2 + 1 - 4)
    assert rollback.guard.offset(4) == skip['sequences'] and rollback.guard.offset(3) == 0
    assert 'spike at step 10: loss is nan. Rewinding to step 4, from where 32 sequences are skipped' in (
        capsys.readouterr().err
    )


def test_without_an_earlier_checkpoint_the_run_begins_again(run, tmp_path):
    rollback, state = run
    restored = rollback.before(Spike(2, 'loss is nan'), state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert rollback.checkpoints.steps == [] and read_jsonl(tmp_path / 'metrics.jsonl') == []
    assert rollback.window.sums() is None and rollback.guard.recent['loss'] == []


def test_one_rollback_too_many_deletes_nothing(run, tmp_path):
    rollback, state = run
    rollback.before(Spike(9, 'loss is nan'), state)
    with pytest.raises(UserError, match=r'A spike at step 6 \(loss is nan\), and 1 have been skipped already'):
        rollback.before(Spike(5, 'loss is nan'), state)
    assert rollback.checkpoints.steps == [4]


@pytest.fixture
def with_best(setup, mesh, tmp_path):
    """Opens a run of twelve steps with its best checkpoint, as a start does; returns its parts."""
    restorer = Restorer(setup(), mesh, 3, None, METADATA)
    stack = contextlib.ExitStack()

    def open_():
        stack.close()
        guard = SpikeGuard(RULE, tmp_path)
        shared = {'skips': lambda: guard.records}
        checkpoints = Checkpoints(tmp_path / 'checkpoints', 9, METADATA, period=4, **shared)
        best = BestCheckpoint(
            BestMetric('loss'), tmp_path / 'best', METADATA, 2, rewind_to=lambda: checkpoints.due, **shared
        )
        clock = stack.enter_context(RunClock(0, 20, 1.0, time.monotonic(), lambda step: False))
        stack.enter_context(contextlib.closing(checkpoints)), stack.enter_context(contextlib.closing(best))
        log = MetricLog([Jsonl()], tmp_path, '', 12)
        stack.callback(log.close)
        parts = (guard, checkpoints, restorer, MetricWindow(), log, clock, BatchSizes.of(4), best)
        return Rollback(*parts), restorer.begin()

    with stack:
        yield open_


def train_to_nine(rollback, state):
    for step, loss in ((2, 4.0), (3, 3.0), (6, 2.0), (9, 1.0)):
        rollback.best.offer(state, step, {'loss': loss})
        if step == 3:
            rollback.checkpoints.save(state, 4)
        if step == 6:
            rollback.checkpoints.save(state, 8)
    rollback.checkpoints.wait()
    assert rollback.best.step == 9


def test_the_best_checkpoint_goes_back_to_the_best_one_before(with_best, tmp_path):
    rollback, state = with_best()
    train_to_nine(rollback, state)
    rollback.before(Spike(9, 'loss is nan'), state)  # to step 4
    assert rollback.best.step == 3 and rollback.best.path == tmp_path / 'best' / '3'
    rollback.best.offer(state, 6, {'loss': 3.5})  # not as good as 3.0 at step 3, though better than nothing
    assert rollback.best.step == 3
    rollback.best.offer(state, 8, {'loss': 2.5})
    assert rollback.best.step == 8
    rollback, _ = with_best()
    assert rollback.best.step == 8 and rollback.checkpoints.steps == [4]


def test_a_rollback_that_a_kill_interrupted_is_finished_by_the_next_start(with_best):
    rollback, state = with_best()
    train_to_nine(rollback, state)
    rollback.guard.skip(4, 9, 'loss is nan', BatchSizes.of(4))  # recorded; the kill comes before any deletion
    rollback, state = with_best()
    assert rollback.checkpoints.steps == [4, 8] and rollback.best.step == 9
    finish_interrupted(rollback.guard, [rollback.checkpoints, rollback.best])
    assert rollback.checkpoints.steps == [4] and rollback.best.step == 3
    rollback.checkpoints.save(state, 8)  # after the skip: the next start keeps it
    rollback, _ = with_best()
    finish_interrupted(rollback.guard, [rollback.checkpoints, rollback.best])
    assert rollback.checkpoints.steps == [4, 8] and rollback.best.step == 3


def test_a_damaged_checkpoint_is_not_gone_back_to(with_best, tmp_path, caplog):
    rollback, state = with_best()
    train_to_nine(rollback, state)
    rollback, state = with_best()
    (tmp_path / 'checkpoints' / '4' / 'metadata' / 'metadata').write_text('{}')
    rollback.before(Spike(9, 'loss is nan'), state)
    assert rollback.checkpoints.steps == [8] and rollback.best.step == 6
    assert 'checkpoint 4 is damaged and was renamed to damaged-4' in caplog.text
