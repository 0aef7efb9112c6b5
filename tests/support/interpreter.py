"""A process of its own for several programs, with another environment than that of the tests."""

import json
import os
import subprocess
import sys

from tests.support.paths import ROOT


class Interpreter:
    """Runs programs one after another in one process, so that it imports JAX and compiles what they share once.

    What depends on being the first in a process (imports, signals, exits) needs `run_alone`.

    Args:
      path: folders that modules are looked for in, before those of the project.
      environment: variables that differ from those of the tests.
    """

    def __init__(self, path=(), **environment):
        path = os.pathsep.join([*map(str, path), str(ROOT), os.environ.get('PYTHONPATH', '')])
        self._process = subprocess.Popen(
            # By its file: the package `tests` imports pytest.
            [sys.executable, '-P', str(ROOT / 'tests' / 'programs' / 'interpreter.py')],
            cwd=ROOT,
            env=os.environ | environment | {'PYTHONPATH': path.rstrip(os.pathsep)},
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
