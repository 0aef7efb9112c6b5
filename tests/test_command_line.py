"""What every program does with what is raised where Python can only drop it, Ctrl-C above all."""

import subprocess
import sys
import textwrap

import pytest

from tests.e2e.test_train import ROOT

PROGRAM = """
    import signal, time
    from palm_jax import command_line

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

RAISING = """
    from palm_jax import command_line

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
