"""Folders that one worker of pytest-xdist makes and all of them read."""

import contextlib
import fcntl
import os
import shutil


@contextlib.contextmanager
def _locked(path):
    with open(path, 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(tmp_path_factory, name, make):
    """Returns a folder that all workers share; the first to ask for it fills it by `make(folder)`.

    Whoever reads it must not change it.
    """
    shared = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:  # whose own folder is in the one of the session
        shared = shared.parent
    folder, complete = shared / name, shared / f'{name}.complete'
    with _locked(shared / f'{name}.lock'):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left by a worker whose `make` failed
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder
