"""Locks between processes: who holds one is named, and who has died holds none."""

import errno
import subprocess
import sys
import textwrap
import threading

import pytest

from palm_jax import locks
from palm_jax.errors import UserError
from tests.support.waiting import wait_until

HOLD = textwrap.dedent("""
    import pathlib, sys, time
    from palm_jax import locks
    with locks.hold(pathlib.Path(sys.argv[1]), 'it', 'stop it.'):
        print('held', flush=True)
        time.sleep(600)
""")


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock `tmp_path/lock`."""
    process = subprocess.Popen([sys.executable, '-c', HOLD, tmp_path / 'lock'], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()
    process.wait()


def taken(path):
    with locks.hold(path, 'the run', 'name another directory.'):
        assert path.exists()
    assert not path.exists()


def without_flock(monkeypatch, how):
    def flock(file, operation):
        raise OSError(errno.ENOSYS if how == 'refused' else errno.ENOLCK, how)

    if how == 'missing':
        monkeypatch.setattr(locks, 'fcntl', None)
    elif how != 'present':
        monkeypatch.setattr(locks.fcntl, 'flock', flock)


@pytest.mark.parametrize('how', ['present', 'missing', 'refused', 'no locks'])
def test_a_lock_is_refused_with_the_name_of_its_holder_until_that_dies(holder, tmp_path, monkeypatch, how):
    without_flock(monkeypatch, how)
    with pytest.raises(UserError) as refused:
        taken(tmp_path / 'lock')
    assert f'the run is in use by process {holder.pid} since 2' in str(refused.value)
    assert str(tmp_path / 'lock') in str(refused.value) and str(refused.value).endswith('or name another directory.')
    assert (f'If it has ended already, remove {tmp_path}/lock.' in str(refused.value)) == (how != 'present')
    holder.kill()
    holder.wait()
    assert (tmp_path / 'lock').exists()  # a process that is killed cannot remove it
    taken(tmp_path / 'lock')
    taken(tmp_path / 'lock')


def test_in_one_process_too_and_after_an_error(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        locks.hold(tmp_path / 'lock', 'the run', 'wait.'),
    ):
        with pytest.raises(UserError, match='the run is in use by process'):
            taken(tmp_path / 'lock')
        1 / 0  # noqa: B018
    taken(tmp_path / 'lock')


def test_a_lock_whose_file_was_replaced_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    flock, path = locks.fcntl.flock, tmp_path / 'lock'
    replaced = []

    def and_replace(file, operation):
        flock(file, operation)
        if not replaced:
            path.unlink()  # the former holder ends
            path.touch()  # and the next one begins
            replaced.append(file)

    monkeypatch.setattr(locks.fcntl, 'flock', and_replace)
    taken(path)
    assert replaced


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    with pytest.raises(UserError, match=r'nowhere/lock cannot be written: No such file'):
        taken(tmp_path / 'nowhere' / 'lock')


def test_who_waits_says_so_and_comes_next(holder, tmp_path, caplog, monkeypatch):
    caplog.set_level('INFO')
    monkeypatch.setattr(locks, '_PAUSE', 0.01)
    order = []

    def wait():
        with locks.wait_for(tmp_path / 'lock', 'the cache'):
            order.append('waited')

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: 'This process waits' in caplog.text)
    order.append('killed')
    holder.kill()
    thread.join(30)
    assert order == ['killed', 'waited'] and not (tmp_path / 'lock').exists()
    (said,) = [r.getMessage() for r in caplog.records if 'in use' in r.getMessage()]
    assert said.startswith(f'the cache is in use by process {holder.pid}')
