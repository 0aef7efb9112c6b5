"""Programs in processes of their own that start in a moment, for tests that start and kill them many times."""

import json
import subprocess
import sys

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

    def start(self, module, arguments, log, **environment):
        """Start `python -m module arguments`, whose output is appended to `log`; return the process id."""
        return self._ask('start', module, [str(argument) for argument in arguments], str(log), environment)

    def ended(self, pid):
        """Return the exit code of a program; None while it runs."""
        return self._ask('ended', pid)

    def _ask(self, *values):
        self._process.stdin.write(json.dumps(values) + '\n')
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())
