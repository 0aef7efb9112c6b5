"""Kills at random moments: of runs that build on each other, and of what uses the last of them. Nothing is lost."""

import dataclasses
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from palm_jax.run_directory import RunDirectory
from palm_jax.training import integrity
from tests.support.forks import Forks
from tests.support.programs import run_here
from tests.support.runs import arguments, checkpoint_arrays, losses

KILLS = int(os.environ.get('PALM_JAX_TEST_KILLS', '100'))  # of each test with many; see CONTRIBUTING.md
ROWS, STEPS = 300, 24
SHORT = (f'--gin.TRAIN_STEPS={STEPS}', '--gin.CHECKPOINT_PERIOD=2')


@dataclasses.dataclass(frozen=True)
class Stage:
    """A program of the chain, which is killed and started again.

    Attributes:
      module: its module.
      flags: its arguments.
      result: MODEL_DIR, or the file of predictions.
    """

    module: str
    flags: tuple[str, ...]
    result: Path

    def is_locked_by(self, pid):
        """Whether a process has begun to work; the lock of one that was killed stays where it is."""
        lock = self.result / 'lock' if self.module == 'palm_jax.train' else Path(f'{self.result}.lock')
        return lock.exists() and f'"pid": {pid},' in lock.read_text()

    @property
    def progress(self):
        """Size of the file that grows with every step, or every batch of rows."""
        training = self.module == 'palm_jax.train'
        path = self.result / 'metrics.jsonl' if training else Path(f'{self.result}.part')
        return path.stat().st_size if path.exists() else 0

    @property
    def newest(self):
        """Step of the newest checkpoint, which is intact; 0 without any, and for a file of predictions."""
        run = RunDirectory(self.result)
        steps = run.steps() if self.module == 'palm_jax.train' else []
        for step in steps[-1:]:
            problem = integrity.problem(run.checkpoint(step))
            assert problem is None, problem
        return steps[-1] if steps else 0

    @property
    def is_finished(self):
        return (self.result / 'summary.json' if self.module == 'palm_jax.train' else self.result).exists()

    def finish(self):
        """Run to the end, in this process."""
        if self.module == 'palm_jax.train' or not self.is_finished:
            result = run_here(self.module, *self.flags)
            assert result.returncode == 0, result.stderr[-3000:]

    def kill(self, forks, dice):
        """Kill it at a random moment: while it begins, or while it works. What it had finished is still there."""
        log = Path(f'{self.result}.log')
        log.write_text('')
        before, kept = self.progress, self.newest
        deadline, waits_for_progress = time.monotonic() + 240, dice.random() < 0.7
        pid = forks.start(self.module, self.flags, log)
        code = forks.ended(pid)
        while code is None and time.monotonic() < deadline:
            if self.progress > before if waits_for_progress else self.is_locked_by(pid):
                break
            time.sleep(0.002)
            code = forks.ended(pid)
        end = time.monotonic() + dice.random() * (0.3 if waits_for_progress else 2)
        while code is None and time.monotonic() < end:
            time.sleep(0.001)
            code = forks.ended(pid)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            while code is None:
                code = forks.ended(pid)
        output = log.read_text()
        assert code in (-signal.SIGKILL, 0) and 'Traceback' not in output, output[-3000:]
        assert self.newest >= kept, f'step {kept} is lost'

    def assert_same(self, other):
        """Its result is that of the same stage of another chain."""
        if self.module != 'palm_jax.train':
            assert self.result.read_bytes() == other.result.read_bytes()
            assert self.result.read_bytes().count(b'\n') == ROWS
            return
        assert losses(self.result) == losses(other.result)
        assert [step for step, _ in losses(self.result)] == list(range(1, STEPS + 1))
        here, there = (checkpoint_arrays(stage.result, STEPS) for stage in (self, other))
        assert here.keys() == there.keys()
        for path in here:
            np.testing.assert_array_equal(here[path], there[path], err_msg=f'{self.result.name} {path}')


def adapter(made, folder, base):
    """A classifier on a base, and its predictions for a file of rows."""
    model_dir = folder / 'adapter'
    (folder / 'rows.txt').write_text('\n'.join(f'number {i} is\u2028odd' for i in range(ROWS)))
    predict = (
        f'--gin_file={model_dir}/config.gin', f'--input={folder}/rows.txt', f'--output={folder}/out.jsonl',
        '--batch_size=2', "--gin.TASK_FEATURE_LENGTHS={'inputs': 30}",
    )  # fmt: skip
    return [
        Stage('palm_jax.train', classifier(made, base, model_dir), model_dir),
        Stage('palm_jax.cli.infer', predict, folder / 'out.jsonl'),
    ]


def classifier(made, base, model_dir, *flags):
    """Arguments of the training of a classifier."""
    return (
        '--gin_file=gin/finetune_lora.gin', f'--gin.TRAIN_FILES={made / "classes.csv"}', *SHORT,
        '--gin.LOG_PERIOD=1', '--gin.LEARNING_RATE=1e-2', "--gin.TASK_FEATURE_LENGTHS={'inputs': 32}",
        f'--gin.INITIAL_CHECKPOINT_PATH={base}', f'--gin.MODEL_DIR={model_dir}', *flags,
    )  # fmt: skip


def chain(made, folder):
    """A base, a classifier on it, and an adapter on that."""
    base, first = folder / 'base', folder / 'first'
    return [
        Stage('palm_jax.train', arguments(made / 'text.txt', base, *SHORT), base),
        Stage('palm_jax.train', classifier(made, base, first, '--gin_file=gin/peft/full.gin'), first),
        *adapter(made, folder, first),
    ]


def assert_kills_change_nothing(stages, kills, whole):
    """Kill each of the stages a number of times, finish it, and compare it with one that nobody killed."""
    dice, starts = random.Random(sum(kills)), 0
    for other in whole:
        other.finish()
    with Forks() as forks:
        for stage, other, count in zip(stages, whole, kills, strict=True):
            for _ in range(count):
                if stage.is_finished:  # by a process whose kill came late: again from the start
                    stage.assert_same(other)
                    shutil.rmtree(stage.result) if stage.result.is_dir() else stage.result.unlink()
                stage.kill(forks, dice)
                starts += 1
                print(f'{time.strftime("%X")} kill {starts}: {stage.result.name}, {stage.progress} bytes', flush=True)
            stage.finish()
            stage.assert_same(other)
    files = stages[-1].result.parent.rglob('*')
    assert not [path.name for path in files if path.name.endswith(('lock', '.part', '.part.json'))]


@pytest.mark.slow  # every day: test_train.test_twenty_steps_equal_ten_a_kill_and_ten
def test_two_kills_of_training_change_nothing(text, tmp_path):
    cut, whole = (
        [Stage('palm_jax.train', arguments(text, folder / 'run', *SHORT), folder / 'run')]
        for folder in folders(tmp_path)
    )
    assert_kills_change_nothing(cut, (2,), whole)
    files = {path.name for path in (cut[0].result / 'checkpoints').iterdir()}
    assert f'{STEPS}' in files and not any('tmp' in name or name == 'superseded' for name in files)


def folders(tmp_path):
    for name in ('cut', 'whole'):
        (tmp_path / name).mkdir()
    return tmp_path / 'cut', tmp_path / 'whole'


@pytest.mark.slow
def test_three_kills_at_random_moments_change_nothing(made, tmp_path):
    cut, whole = (adapter(made, folder, made / 'base') for folder in folders(tmp_path))
    assert_kills_change_nothing(cut, (1, 2), whole)


@pytest.mark.slow
@pytest.mark.parametrize('shares', [(0.3, 0.3, 0.4, 0), (0, 0, 0, 1)], ids=['training', 'infer'])
def test_many_kills_at_random_moments_change_nothing(made, tmp_path, shares):
    cut, whole = (chain(made, folder) for folder in folders(tmp_path))
    assert_kills_change_nothing(cut, [round(KILLS * share) for share in shares], whole)
