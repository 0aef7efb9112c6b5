"""Programs in processes of their own that start in a moment, for tests that kill, stop and serve them."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

from tests.support.paths import ROOT


class Forks:
    """Starts programs as forks of one process that has imported them (tests/programs/forks.py)."""

    def __init__(self):
        command = [sys.executable, '-m', 'tests.programs.forks']
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def open(self, module, *arguments, cwd=ROOT, **environment):
        """Start `python -m module arguments` in the folder `cwd`; return it as a `Fork`."""
        with tempfile.TemporaryDirectory() as folder:
            pipe = os.path.join(folder, 'output')
            os.mkfifo(pipe)
            pid = self.start(module, arguments, pipe, cwd, **environment)
            return Fork(self, pid, open(pipe, encoding='utf-8'))

    def start(self, module, arguments, log, cwd=ROOT, **environment):
        """Start `python -m module arguments`, whose output is appended to `log`; return the process id."""
        return self._ask('start', module, [str(argument) for argument in arguments], str(log), str(cwd), environment)

    def ended(self, pid):
        """Return the exit code of a program; None while it runs."""
        return self._ask('ended', pid)

    def _ask(self, *values):
        self._process.stdin.write(json.dumps(values) + '\n')
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Fork:
    """A program in a fork, with the interface of `subprocess.Popen`.

    Attributes:
      pid: process id.
      stdout: open file of what it writes to stdout and to stderr.
      returncode: exit code, negative for a signal; None until `poll`, `wait` or `communicate` has seen the end.
    """

    def __init__(self, forks, pid, stdout):
        self._forks, self.pid, self.stdout = forks, pid, stdout
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            self.returncode = self._forks.ended(self.pid)
        return self.returncode

    def wait(self, timeout=60):
        end = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < end, f'process {self.pid} did not end'
            time.sleep(0.01)
        return self.returncode

    def communicate(self, timeout=300):
        """Read the output to its end; return it and None. A program that has not ended by then is killed."""
        late = threading.Timer(timeout, self.kill)
        late.start()
        try:
            output = self.stdout.read()
        finally:
            late.cancel()
        self.wait()
        return output, None

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)
