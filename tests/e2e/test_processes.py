"""Several processes train as one: the same losses, each reading its share; what happens when one of them dies."""

import shutil
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from palm_jax.cli import checkpoint
from palm_jax.errors import UserError
from palm_jax.training import distributed
from tests.support import slurm
from tests.support.paths import ROOT
from tests.support.runs import arguments, command, losses, run

STEPS = ('--gin.TRAIN_STEPS=6', '--gin.CHECKPOINT_PERIOD=3')


def started(forks, count, flags, **environment):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    shared = environment | {'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}', 'JAX_NUM_PROCESSES': str(count)}
    return [forks.open('palm_jax.train', *flags, **shared, JAX_PROCESS_ID=str(number)) for number in range(count)]


def ended(members, timeout=300):
    try:
        outputs = [member.communicate(timeout=timeout)[0] for member in members]
    finally:
        for member in members:
            member.kill()
    return [(member.returncode, output) for member, output in zip(members, outputs, strict=True)]


def assert_near(one, other):
    assert [step for step, _ in losses(one)] == [step for step, _ in losses(other)]
    np.testing.assert_allclose([loss for _, loss in losses(one)], [loss for _, loss in losses(other)], rtol=2e-5)


@pytest.mark.parametrize('count', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_train_to_the_loss_of_one(text, tmp_path, forks, count):
    results = ended(started(forks, count, arguments(text, tmp_path / 'many', *STEPS)))
    assert all(code == 0 for code, _ in results), [output[-2000:] for _, output in results]
    assert f'data = {count} × model = 1' in results[0][1] and 'mesh' not in results[1][1]
    assert run(text, tmp_path / 'one', *STEPS).returncode == 0
    assert_near(tmp_path / 'many', tmp_path / 'one')
    many, one = (checkpoint.read(tmp_path / name / 'checkpoints' / '6') for name in ('many', 'one'))
    assert many.keys() == one.keys() and len(one) > 20
    for path in one:
        np.testing.assert_allclose(many[path], one[path], rtol=1e-3, atol=2e-5, err_msg=path)
    report = run(text, tmp_path / 'many', *STEPS)  # one process continues what several began
    assert report.returncode == 0 and 'this model' in report.stdout, report.stderr[-2000:]


def until_step(model_dir, step, members):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and all(member.poll() is None for member in members):
        if (model_dir / 'metrics.jsonl').exists() and len(losses(model_dir)) >= step:
            return
        time.sleep(0.05)
    pytest.fail(str([member.communicate()[0][-2000:] for member in members if member.poll() is not None]))


def newest(model_dir):
    return max(int(path.name) for path in (model_dir / 'checkpoints').iterdir() if path.name.isdigit())


@pytest.mark.slow
def test_the_death_of_one_ends_the_others_within_a_minute_and_the_run_goes_on(text, tmp_path, forks):
    many = ('--gin.TRAIN_STEPS=100000', '--gin.CHECKPOINT_PERIOD=3')
    members = started(forks, 2, arguments(text, tmp_path / 'run', *many))
    until_step(tmp_path / 'run', 8, members)
    members[1].kill()
    start = time.monotonic()
    (code, output), _ = ended(members, timeout=90)
    assert code != 0 and time.monotonic() - start < 60, output[-3000:]
    assert 'process' in output[-3000:].lower()
    last = newest(tmp_path / 'run')
    results = ended(started(forks, 2, arguments(text, tmp_path / 'run', f'--gin.TRAIN_STEPS={last + 2}')))
    assert all(code == 0 for code, _ in results), [output[-2000:] for _, output in results]
    assert f'continuing from step {last}' in results[0][1]


@pytest.mark.slow
def test_sigterm_to_one_saves_all_at_one_step(text, tmp_path, forks):
    members = started(
        forks, 2, arguments(text, tmp_path / 'run', '--gin.TRAIN_STEPS=100000', '--gin.CHECKPOINT_PERIOD=50000')
    )
    until_step(tmp_path / 'run', 5, members)
    members[1].send_signal(signal.SIGTERM)
    results = ended(members, timeout=120)
    assert {code for code, _ in results} == {128 + signal.SIGTERM}, [output[-2000:] for _, output in results]
    assert 'SIGTERM: saved step' in results[0][1] and 'python -m palm_jax.train' in results[0][1]
    (step,) = [int(p.name) for p in (tmp_path / 'run' / 'checkpoints').iterdir() if p.name.isdigit()]
    assert step >= 5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('mpirun') is None, reason='no mpirun here')
def test_mpirun_is_noticed_without_flags(text, tmp_path):
    launcher = ['mpirun', '-n', '2', '--allow-run-as-root', '--oversubscribe', '--bind-to', 'none']
    result = subprocess.run(
        [*launcher, *command(text, tmp_path / 'run', *STEPS)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'data = 2 × model = 1' in result.stdout
    assert run(text, tmp_path / 'one', *STEPS).returncode == 0
    assert_near(tmp_path / 'run', tmp_path / 'one')


@pytest.mark.slow
@pytest.mark.skipif(not slurm.can_run(), reason="no root with Debian's slurm-wlm and munge here")
def test_srun_is_noticed_without_flags_and_scancel_saves_all_at_one_step(text, tmp_path):
    srun = ['srun', '--nodes=2', '--ntasks=2', '--cpus-per-task=1', '--job-name=palm']
    with slurm.cluster(tmp_path / 'slurm') as environment:

        def launched(name, *bindings):
            return subprocess.Popen(
                [*srun, *command(text, tmp_path / name, *bindings)],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        ((code, output),) = ended([launched('run', *STEPS)])
        assert code == 0, output[-3000:]
        assert 'processes  2, with 1 of 2 devices each' in output and 'data = 2 × model = 1' in output
        member = launched('ended', '--gin.TRAIN_STEPS=100000', '--gin.CHECKPOINT_PERIOD=50000')
        until_step(tmp_path / 'ended', 5, [member])
        subprocess.run(['scancel', '--signal=TERM', '--name=palm'], env=environment, check=True)
        ((code, output),) = ended([member], timeout=120)
        assert code == 128 + signal.SIGTERM and 'SIGTERM: saved step' in output, output[-3000:]
        ((code, output),) = ended([launched('ended', f'--gin.TRAIN_STEPS={newest(tmp_path / "ended") + 2}')])
        assert code == 0 and 'continuing from step' in output, output[-3000:]
    assert run(text, tmp_path / 'one', *STEPS).returncode == 0
    assert_near(tmp_path / 'run', tmp_path / 'one')


def test_what_a_launcher_sets_is_understood():
    several = distributed._were_started_together
    assert not several({}) and not several({'SLURM_NTASKS': '8'})  # a batch script, not srun
    assert several({'SLURM_NTASKS': '8', 'SLURM_STEP_ID': '0', 'SLURM_PROCID': '1'})
    assert several({'OMPI_COMM_WORLD_SIZE': '2'}) and not several({'OMPI_COMM_WORLD_SIZE': '1'})
    assert several({'TPU_WORKER_HOSTNAMES': 'a,b'}) and not several({'TPU_WORKER_HOSTNAMES': 'localhost'})
    with pytest.raises(UserError, match='belong together: JAX_PROCESS_ID is not set'):
        distributed.join({'JAX_NUM_PROCESSES': '2', 'JAX_COORDINATOR_ADDRESS': 'x:1'})
