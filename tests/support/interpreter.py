"""A process of its own for several programs, with another environment than that of the tests."""

import json
import os
import subprocess
import sys

from tests.support.paths import ROOT


class Interpreter:
    """Runs programs one after another in one process, so that it imports JAX and compiles what they share once.

    What depends on being the first in a process (imports, signals, exits) needs `run_alone`.
    """

    def __init__(self, **environment):
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'tests.programs.interpreter'],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(self, module, *arguments):
        """Runs `python -m module arguments`; returns a `subprocess.CompletedProcess`."""
        arguments = [str(argument) for argument in arguments]
        self._process.stdin.write(json.dumps([module, arguments]) + '\n')
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f'the process ended with {self._process.wait()}'
        return subprocess.CompletedProcess([module, *arguments], *json.loads(answer))

    def run_script(self, name, *arguments):
        """Runs a module of tests/programs; returns a `subprocess.CompletedProcess`."""
        return self.run(f'tests.programs.{name}', *arguments)
