"""Whole runs through the command line: a pulse, a kill, a Ctrl-C, a mistake."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.support.paths import ROOT
from tests.support.programs import run_here
from tests.support.runs import arguments, checkpoint_arrays, command, losses, run


def test_a_run_leaves_what_it_promises(text, tmp_path):
    result = run(text, tmp_path / 'run', '--gin.TRAIN_STEPS=3')
    assert result.returncode == 0, result.stderr[-3000:]
    for promised in ('loss.png', 'samples.txt', 'summary.json', 'config.gin', 'versions.json', 'metrics.jsonl'):
        assert (tmp_path / 'run' / promised).stat().st_size > 0
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['step'] == 3 and len(summary['samples']) == 3
    assert set(summary['baselines']) == {'gzip -9', 'order-3 byte n-gram'}
    np.testing.assert_allclose(np.exp(summary['loss']), summary['perplexity'])
    # Bytes: a token is a byte but for the end mark, so the two measures agree.
    np.testing.assert_allclose(summary['bits_per_byte'], summary['loss'] / np.log(2), rtol=0.001)
    for shown in ('validation loss', 'perplexity', 'this model', 'loss.png', 'checkpoints/3', 'TRAIN_STEPS=6', 'MFU ='):
        assert shown in result.stdout, shown
    again = run(text, tmp_path / 'run', '--gin.TRAIN_STEPS=5')
    assert again.returncode == 0 and 'continuing from step 3' in again.stdout
    assert [step for step, _ in losses(tmp_path / 'run')] == [1, 2, 3, 4, 5]
    before = (tmp_path / 'run' / 'metrics.jsonl').read_text()
    finished = run(text, tmp_path / 'run', '--gin.TRAIN_STEPS=5')  # nothing left to do: the report again
    assert finished.returncode == 0 and 'this model' in finished.stdout
    assert (tmp_path / 'run' / 'metrics.jsonl').read_text() == before


def test_twenty_steps_equal_ten_a_kill_and_ten(text, tmp_path, forks):
    flags = ('--gin.TRAIN_STEPS=20', '--gin.CHECKPOINT_PERIOD=10')
    assert run(text, tmp_path / 'whole', *flags).returncode == 0
    killed = forks.open('palm_jax.train', *arguments(text, tmp_path / 'cut', *flags))
    saved = tmp_path / 'cut' / 'checkpoints' / '10'
    deadline = time.monotonic() + 240
    while not saved.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    assert saved.exists()
    result = run(text, tmp_path / 'cut', *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    assert losses(tmp_path / 'whole') == losses(tmp_path / 'cut')
    whole, cut = (checkpoint_arrays(tmp_path / name, 20) for name in ('whole', 'cut'))
    assert whole.keys() == cut.keys() and len(whole) > 20
    for path in whole:
        np.testing.assert_array_equal(whole[path], cut[path], err_msg=path)


@pytest.mark.parametrize('seconds', [0.3, pytest.param(1.0, marks=pytest.mark.slow)])
def test_ctrl_c_before_the_first_step_ends_the_run_and_not_by_a_crash(text, tmp_path, seconds):
    process = subprocess.Popen(
        command(text, tmp_path / 'run', '--gin.TRAIN_STEPS=100000'),
        cwd=ROOT,
        env=os.environ | {'JAX_ENABLE_COMPILATION_CACHE': 'false'},  # so that it is compiling when the signal comes
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    before = []
    for line in process.stdout:
        before.append(line)
        if line.startswith('MFU = '):
            break
    time.sleep(seconds)  # parameters are made, the step is compiled
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and 'Traceback' not in output, (process.returncode, before, output[-3000:])


def test_ctrl_c_saves_and_says_how_to_continue(text, tmp_path, forks):
    process = forks.open('palm_jax.train', *arguments(text, tmp_path / 'run', '--gin.TRAIN_STEPS=100000'))
    metrics = tmp_path / 'run' / 'metrics.jsonl'
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count('\n') >= 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, output[-3000:]
    assert 'SIGINT: saved step' in output and 'python -m palm_jax.train' in output and 'Traceback' not in output
    step = max(int(p.name) for p in (tmp_path / 'run' / 'checkpoints').iterdir())
    assert losses(tmp_path / 'run')[-1][0] <= step
    result = run(text, tmp_path / 'run', f'--gin.TRAIN_STEPS={step + 1}')
    assert f'continuing from step {step:,}' in result.stdout, result.stderr[-2000:]


def test_mistakes_end_with_a_message_and_code_two(text, tmp_path):
    first = run(text, tmp_path / 'run', '--gin.TRAIN_STEPS=1')
    assert first.returncode == 0, first.stderr[-3000:]
    for flags, message in (
        (['--gin.TRAIN_STEPS=2', '--gin.LEARNING_RATE=1.0'], 'another configuration'),
        (['--gin.TRIAN_STEPS=2'], 'Did you mean TRAIN_STEPS?'),
        (
            ['--gin.VOCABULARY_SIZE=100', f'--gin.MODEL_DIR={tmp_path / "small"}'],
            'has only 100 embedding rows',
        ),
        (['--gin.BATCH_SIZE=3', '--gin.MICROBATCHES=2', f'--gin.MODEL_DIR={tmp_path / "odd"}'], 'does not divide'),
    ):
        result = run(text, tmp_path / 'run', *flags)
        assert result.returncode == 2 and message in result.stderr, result.stderr[-3000:]
        assert 'Traceback' not in result.stderr


def test_starting_from_another_runs_parameters(text, tmp_path):
    assert run(text, tmp_path / 'base', '--gin.TRAIN_STEPS=2').returncode == 0
    flags = ('--gin.TRAIN_STEPS=1', '--gin.LEARNING_RATE=0.0', f'--gin.INITIAL_CHECKPOINT_PATH={tmp_path / "base"}')
    result = run(text, tmp_path / 'next', *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    base, after = (checkpoint_arrays(tmp_path / name, step) for name, step in (('base', 2), ('next', 1)))
    params = [path for path in base if 'params' in path]
    assert len(params) == 10
    for path in params:
        np.testing.assert_array_equal(base[path], after[path])


def test_weights_and_biases_offline(text, tmp_path, forks):
    pytest.importorskip('wandb')
    flags = ('--gin_file=gin/writers/wandb.gin', '--gin.WANDB_MODE=offline', '--gin.TRAIN_STEPS=2')
    process = forks.open('palm_jax.train', *arguments(text, tmp_path / 'run', *flags))  # wandb starts threads and hooks
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    assert list((tmp_path / 'run' / 'wandb').glob('offline-run-*/*.wandb'))


def test_explain_needs_no_run(text, tmp_path):
    result = run(text, tmp_path / 'run', '--explain')
    assert result.returncode == 0, result.stderr[-3000:]
    for shown in ('command line, --gin.NUM_LAYERS=2', 'stack/attn/qkv/q', '✓', 'MiB per device', 'epochs', 'per token'):
        assert shown in result.stdout, shown
    assert not (tmp_path / 'run').exists()


def test_explain_540b_on_the_papers_pod():
    flags = (
        '--gin_file=gin/pretrain_tiny.gin',
        '--gin_file=gin/models/540b.gin',
        '--gin.VOCABULARY=bytes',
        '--gin.VOCABULARY_SIZE=256128',
        '--gin.BATCH_SIZE=2048',
        '--gin.MESH_MODEL=12',
    )
    result = run_here('palm_jax.train', *flags, '--explain', '--devices=3072')
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'mesh       data = 256 × model = 12' in result.stdout and '540,35' in result.stdout


def test_a_length_that_attention_cannot_take_is_refused_before_anything_is_written(text, tmp_path):
    result = run(text, tmp_path / 'run', "--gin.palm.Architecture.attention='intervals'")
    assert result.returncode == 2 and 'a multiple of 128' in result.stderr and 'here they are 64' in result.stderr
    assert not (tmp_path / 'run').exists()
