"""Faults of the machine, through the command line: full disks, folders that cannot be written, kills, impatience."""

import signal
import subprocess
import time

import pytest

from palm_jax.training import integrity
from tests.support.paths import ROOT
from tests.support.runs import arguments, command, run


def test_a_disk_that_is_full_ends_the_run_with_a_message_and_what_was_saved(text, tmp_path, forks):
    flags = ('--gin.TRAIN_STEPS=4', '--gin.CHECKPOINT_PERIOD=2')
    assert run(text, tmp_path / 'run', '--gin.TRAIN_STEPS=2').returncode == 0
    size = max(p.stat().st_size for p in (tmp_path / 'run' / 'checkpoints' / '2' / 'state').rglob('*') if p.is_file())
    # A limit on the size of files gives the error of a full disk.
    program = 'tests.programs.train_with_small_files'
    full = forks.open(program, size // 2, *arguments(text, tmp_path / 'run', *flags))
    output, _ = full.communicate()
    assert full.returncode == 2, output[-3000:]
    assert 'A checkpoint could not be written' in output and 'File too large' in output
    (told,) = [line for line in output.splitlines() if line.startswith('error: ')]
    assert 'checkpoints/2 is intact' in told and 'palm_jax/' not in output and 'Traceback' not in output
    again = run(text, tmp_path / 'run', *flags)
    assert again.returncode == 0 and 'continuing from step 2' in again.stdout, again.stderr[-3000:]


def test_a_folder_that_cannot_be_written_is_said_at_once(text, tmp_path):
    (tmp_path / 'file').write_text('')
    result = run(text, tmp_path / 'file' / 'run', '--gin.TRAIN_STEPS=2')
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert f'{tmp_path}/file' in result.stderr and 'Not a directory' in result.stderr


def started(text, model_dir, *flags):
    return subprocess.Popen(
        command(text, model_dir, *flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_lines(process, metrics, count):
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count('\n') >= count:
            return
        time.sleep(0.02)
    pytest.fail('the run did not begin')


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once_and_breaks_nothing(text, tmp_path):
    flags = ('--gin.TRAIN_STEPS=100000', '--gin.CHECKPOINT_PERIOD=2')
    process = started(text, tmp_path / 'run', *flags)
    wait_for_lines(process, tmp_path / 'run' / 'metrics.jsonl', 5)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGINT, 130) and 'Traceback' not in output, output[-3000:]
    for step in (tmp_path / 'run' / 'checkpoints').iterdir():
        assert not step.name.isdigit() or integrity.problem(step) is None
    newest = max(int(p.name) for p in (tmp_path / 'run' / 'checkpoints').iterdir() if p.name.isdigit())
    result = run(text, tmp_path / 'run', f'--gin.TRAIN_STEPS={newest + 1}')
    assert result.returncode == 0 and f'continuing from step {newest}' in result.stdout, result.stderr[-3000:]
