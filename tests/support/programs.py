"""The programs, as `python -m` runs them: in the process of the test, or in a process of their own.

In the process of the test they need not import JAX and TensorFlow again, which takes longer than most small runs.
What depends on a process (signals, kills, its environment, the order of its imports) is tested in one of its own.
"""

import contextlib
import importlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from unittest import mock

import pytest

from palm_jax.cli import command_line
from palm_jax.cli.main import PROGRAMS
from tests.support.paths import ROOT


def run_here(module, *arguments, cwd=ROOT):
    """Runs `python -m module arguments` in this process, by the same `command_line.run` that its `__main__` calls.

    Returns:
      A `subprocess.CompletedProcess`. Exceptions that `command_line.run` does not turn into a message pass.
    """
    program = importlib.import_module(module)
    arguments = [str(argument) for argument in arguments]
    path, interrupt, unraisable = list(sys.path), signal.getsignal(signal.SIGINT), sys.unraisablehook
    package = logging.getLogger('palm_jax')
    level, propagate, handlers = package.level, package.propagate, list(package.handlers)
    try:
        with (
            tempfile.TemporaryFile('w+', encoding='utf-8') as output,
            tempfile.TemporaryFile('w+', encoding='utf-8') as errors,
            contextlib.chdir(cwd),
            mock.patch.object(sys, 'argv', [program.__file__, *arguments]),
        ):
            with (
                pytest.raises(SystemExit) as ended,
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(errors),
            ):
                command_line.run(program.main)
            _forget_streams(output, errors)
            output.seek(0), errors.seek(0)
            return subprocess.CompletedProcess(
                [module, *arguments], ended.value.code or 0, output.read(), errors.read()
            )
    finally:
        sys.path[:], sys.unraisablehook = path, unraisable
        package.setLevel(level)
        package.propagate, package.handlers = propagate, handlers  # so that `caplog` sees the log again
        signal.signal(signal.SIGINT, interrupt)


def _forget_streams(*streams):
    """Removes the handlers that a program has given to loggers of any package for output that ends with it."""
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in list(getattr(logger, 'handlers', ())):
            if getattr(handler, 'stream', None) in streams:
                logger.removeHandler(handler)


def run_alone(module, *arguments, cwd=ROOT, **environment):
    """Runs `python -m module arguments` in a process of its own; returns a `subprocess.CompletedProcess`.

    A program of `palm_jax.cli` is started as `python -m palm_jax program`.
    """
    names = {f'palm_jax.cli.{file}': name for name, (file, _) in PROGRAMS.items()}
    start = ['palm_jax', names[module]] if module in names else [module]
    return subprocess.run(
        [sys.executable, '-m', *start, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def run_script(name, *arguments, **environment):
    """Runs a module of tests/programs in a process of its own; returns a `subprocess.CompletedProcess`."""
    return run_alone(f'tests.programs.{name}', *arguments, **environment)
