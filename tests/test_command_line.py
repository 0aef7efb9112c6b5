"""What every program does with Ctrl-C, wherever it comes."""

import subprocess
import sys
import textwrap

from tests.e2e.test_train import ROOT

PROGRAM = """
    import signal, time
    from palm_jax import command_line

    class Dropped:
        def __del__(self):  # Python drops exceptions here, as in a callback of the garbage collector
            signal.raise_signal(signal.SIGINT)

    def main(arguments):
        Dropped()
        for _ in range(1000):
            time.sleep(0.01)
        return 0

    command_line.run(main)
"""


def test_ctrl_c_where_python_drops_it_ends_the_program_all_the_same():
    program = [sys.executable, '-c', textwrap.dedent(PROGRAM)]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, '', 'interrupted\n')
