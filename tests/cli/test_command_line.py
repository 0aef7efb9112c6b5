"""What every program does with what is raised where Python can only drop it, Ctrl-C above all."""

import argparse
import os
import subprocess
import sys
import textwrap

import pytest

from palm_jax.cli import command_line
from tests.e2e.test_train import ROOT

PROGRAM = """
    import signal, time
    from palm_jax.cli import command_line

    class Dropped:
        def __del__(self):  # Python drops exceptions here, as in a callback of the garbage collector
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs begin without

    def main(arguments):
        Dropped()
        for _ in range(1000):
            time.sleep(0.01)
        return 0

    command_line.run(main)
"""

IMPORTING = """
    import signal
    from palm_jax.cli import command_line

    signal.signal(signal.SIGINT, signal.default_int_handler)

    def main(arguments):
        import swallowing
        return 0

    command_line.run(main)
"""

RAISING = """
    from palm_jax.cli import command_line

    class Dropped:
        def __del__(self):
            raise RuntimeError('{text}')

    def main(arguments):
        Dropped()
        return 0

    command_line.run(main)
"""


def test_ctrl_c_where_python_drops_it_ends_the_program_all_the_same():
    program = [sys.executable, '-c', textwrap.dedent(PROGRAM)]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, '', 'interrupted\n')


@pytest.mark.parametrize('told, text', [(False, 'Event loop is closed'), (True, 'no disk')])
def test_only_what_is_told_elsewhere_is_dropped(told, text):
    program = [sys.executable, '-c', textwrap.dedent(RAISING.format(text=text))]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert (f'RuntimeError: {text}' in result.stderr) == bool(result.stderr) == told


def test_ctrl_c_within_an_import_that_swallows_it_ends_the_program(tmp_path):
    (tmp_path / 'swallowing.py').write_text(
        'import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept BaseException:\n    pass\n'
    )
    program = [sys.executable, '-c', textwrap.dedent(IMPORTING)]
    environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), str(tmp_path)])}
    result = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, '', 'interrupted\n')


@pytest.mark.parametrize('text', ['0', '-3', '1.5', 'ten', ''])
def test_a_number_of_things_is_positive(text):
    with pytest.raises(argparse.ArgumentTypeError, match='must be a whole number of at least 1'):
        command_line.positive(text)
    assert command_line.positive('12') == 12
