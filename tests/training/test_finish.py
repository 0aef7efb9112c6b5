"""The end of a run: an exit code after a signal, a report after the last step."""

import contextlib
import dataclasses
import logging
import shlex
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.best import BestCheckpoint, BestMetric
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.evaluate import HeldOut
from palm_jax.training.finish import Finish, continue_command
from palm_jax.training.metric_log import MetricLog
from palm_jax.training.metrics import Ratio
from palm_jax.training.resume import Restorer
from palm_jax.training.run import Run
from palm_jax.training.writers import Jsonl, read_jsonl
from palm_jax.wording import shell_command
from tests.support.metadata import METADATA

COMMAND = 'palm-jax train --gin.TRAIN_STEPS=20 --gin.SEED=1'


class Data:
    """One held-out batch."""

    num_validation_sequences = 4

    def validation(self, size):
        return iter([{'x': np.ones((size, 1), np.float32)}])

    def validation_by_length(self, size):
        return ((np.arange(size), batch) for batch in self.validation(size))


@dataclasses.dataclass
class Report:
    """Remembers where it was written."""

    result: object
    directory: object = None

    def values(self):
        return {'loss': self.result.inputs.evaluate()['loss'].value()}

    def write(self, directory):
        self.directory = directory

    def text(self, directory, command):
        return f'report of step {self.result.step} in {self.result.checkpoint}; continue with {command}'


@pytest.fixture
def ends(setup, mesh, tmp_path, caplog):
    """Ends a run at a step, perhaps after a signal; returns the exit code and the reports that were made."""
    caplog.set_level(logging.INFO)
    restorer = Restorer(setup(), mesh, 3, None, METADATA)
    begun = restorer.begin()

    def end(step, first_step=0, received=None, best=None):
        reports = []

        def reporter(result):
            reports.append(Report(result))
            return reports[-1]

        state = dataclasses.replace(begun, step=jnp.int32(step))
        eval_step = lambda state, batch: {'loss': Ratio(np.float32(state.step), np.float32(1))}  # noqa: E731
        held_out = HeldOut(eval_step, None, setup().model, Data(), mesh, BatchSizes.of(4))
        clock = types.SimpleNamespace(
            stop_requested=received is not None, received_signal=received, exit_code=128 + (received or 0)
        )
        with contextlib.closing(Checkpoints(tmp_path / 'checkpoints', 2, METADATA)) as checkpoints:
            checkpoints.save(state, step)
            log = MetricLog([Jsonl()], tmp_path, '', first_step)
            parts = (checkpoints, best, restorer, held_out, reporter, setup().plan, log)
            code = Finish(*parts, tmp_path, Run(command=COMMAND)).end(state, first_step, clock)
            assert checkpoints.latest == step
        return code, reports

    return end


def test_a_signal_ends_with_its_code_and_the_command_that_continues(ends, tmp_path, caplog):
    code, reports = ends(7, received=signal.SIGTERM)
    assert code == 143 and not reports and read_jsonl(tmp_path / 'metrics.jsonl') == []
    assert f'SIGTERM: saved step 7. Continue with\n  {COMMAND}' in caplog.text


def test_a_signal_during_the_last_step_changes_nothing(ends):
    code, reports = ends(20, received=signal.SIGINT)
    assert code == 0 and len(reports) == 1


def test_the_last_step_is_reported_logged_and_written(ends, tmp_path, caplog):
    code, (report,) = ends(20)
    assert code == 0 and report.directory == tmp_path
    assert (report.result.step, report.result.checkpoint) == (20, tmp_path / 'checkpoints' / '20')
    assert report.result.inputs.sequences_seen == 80 and report.result.inputs.batch_size == 4
    assert read_jsonl(tmp_path / 'metrics.jsonl') == [{'step': 20, 'validation/loss': 20.0}]
    assert 'continue with palm-jax train --gin.SEED=1 --gin.TRAIN_STEPS=40' in caplog.text


def test_a_command_is_quoted_as_people_write_it():
    words = ['palm-jax', "--gin.L={'targets': 64}", '--gin.T={a} b', '--gin.P=/x', 'a b', '--gin.D="$x\'']
    command = shell_command(words)
    assert command.startswith("palm-jax --gin.L=\"{'targets': 64}\" --gin.T='{a} b' --gin.P=/x 'a b' ")
    assert shlex.split(command) == words
    assert continue_command(command, 2) == f'{command} --gin.TRAIN_STEPS=4'


def test_a_run_that_had_ended_before_is_reported_again_but_not_logged_again(ends, tmp_path):
    code, reports = ends(20, first_step=20)
    assert code == 0 and reports[0].directory == tmp_path
    assert read_jsonl(tmp_path / 'metrics.jsonl') == []


def test_the_best_step_is_reported_where_there_is_one(ends, setup, mesh, tmp_path):
    restorer = Restorer(setup(), mesh, 3, None, METADATA)
    better = dataclasses.replace(restorer.begin(), step=jnp.int32(12))
    better = dataclasses.replace(better, params=jax.tree.map(lambda x: x + 1, better.params))
    best = BestCheckpoint(BestMetric('loss'), tmp_path / 'best', METADATA, 4)
    best.offer(better, 12, {'loss': 1.0})
    code, (report,) = ends(20, best=best)
    best.close()
    assert code == 0 and (report.result.step, report.result.checkpoint) == (12, tmp_path / 'best' / '12')
    jax.tree.map(np.testing.assert_array_equal, report.result.inputs.params, better.params)
    assert read_jsonl(tmp_path / 'metrics.jsonl') == [{'step': 20, 'best/loss': 12.0}]


def test_several_processes_tell_the_loss_and_how_to_get_the_report(ends, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr('palm_jax.training.finish.distributed', types.SimpleNamespace(are_several=lambda: True))
        code, reports = ends(20)
    assert code == 0 and not reports
    assert 'validation loss  20.0000 nats' in caplog.text and 'run the command in one process' in caplog.text


def test_the_continue_command_trains_for_twice_as_long():
    assert continue_command('train --gin.TRAIN_STEPS=3 --gin.A=1', 3) == 'train --gin.A=1 --gin.TRAIN_STEPS=6'
    assert continue_command('train --gin.A=1', 3) == 'train --gin.A=1 --gin.TRAIN_STEPS=6'


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ('--gin.TRAIN_STEPS 3 --gin.A=1', '--gin.A=1 --gin.TRAIN_STEPS=6'),
        ("'--gin.TRAIN_STEPS = 3' --gin.A=1", '--gin.A=1 --gin.TRAIN_STEPS=6'),
        ('--accept_changes --gin.A=1', '--gin.A=1 --gin.TRAIN_STEPS=6'),
        ("'--gin.MODEL_DIR=runs/a b' '--gin.A= --gin.TRAIN_STEPS=3'",
         "--gin.MODEL_DIR='runs/a b' --gin.A=' --gin.TRAIN_STEPS=3' --gin.TRAIN_STEPS=6"),
        ('--gin.loop.train.total_steps=3', '--gin.loop.train.total_steps=6'),
    ],
)  # fmt: skip
def test_the_continue_command_is_one_for_a_shell(before, after):
    assert continue_command(f'train {before}', 3) == f'train {after}'
