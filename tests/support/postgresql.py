"""A PostgreSQL server of the tests' own, in a process that ends with them."""

import contextlib
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

PASSWORD = 'open sesame'
QUIET = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}


def find_program(name):
    """A program of PostgreSQL, or None."""
    installed = sorted(glob.glob(f'/usr/lib/postgresql/*/bin/{name}'), reverse=True)
    return shutil.which(name) or next(iter(installed), None)


class Server:
    """A server on a free port of this machine, which can be stopped and started again."""

    def __init__(self, folder, port, user):
        self._folder, self.port, self._user, self._process = folder, port, user, None
        self.url = f'postgresql://keeper:{PASSWORD.replace(" ", "%20")}@127.0.0.1:{port}/postgres'

    def make(self):
        """Makes an empty database with a user `keeper`."""
        password = self._folder / 'password'
        password.write_text(PASSWORD)
        make = [find_program('initdb'), '-D', self._folder / 'data', '--auth=scram-sha-256', '--username=keeper', '-N']
        make += [f'--pwfile={password}', '--encoding=UTF8', '--no-locale']
        subprocess.run(make, check=True, cwd=self._folder, **self._user, **QUIET)

    def start(self):
        """Starts it, and waits until it answers."""
        import psycopg

        options = ['-D', self._folder / 'data', '-p', str(self.port), '-h', '127.0.0.1', '-k', '', '-F']
        self._process = subprocess.Popen([find_program('postgres'), *options], cwd=self._folder, **self._user, **QUIET)

        def is_ready():
            assert self._process.poll() is None
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=5):
                return True

        wait_until(is_ready, 60)

    def stop(self):
        """Stops it; open connections are ended."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)


@contextlib.contextmanager
def running():
    """Yields a `Server`; skips the test where PostgreSQL or its driver is not installed."""
    pytest.importorskip('psycopg', reason='psycopg is not installed: pip install "palm_jax[postgres]"')
    if find_program('initdb') is None:
        pytest.skip('PostgreSQL is not installed: apt install postgresql')
    folder, user = Path(tempfile.mkdtemp(prefix='postgresql_')), {}
    if os.geteuid() == 0:  # as which PostgreSQL does not run
        known = {each.pw_name for each in pwd.getpwall()}
        user = {'user': next(name for name in ('postgres', 'nobody') if name in known)}
        shutil.chown(folder, user['user'])
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    server = Server(folder, port, user)
    try:
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
