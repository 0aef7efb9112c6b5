"""The log on the terminal of a program."""

import subprocess
import sys
import textwrap

from tests.support.paths import ROOT

PROGRAM = """
    import logging
    from palm_jax.cli import command_line

    def main(arguments):
        logging.getLogger('palm_jax.training').info('%s parameters', 3)
        logging.getLogger('palm_jax.training').warning('a checkpoint is damaged')
        logging.getLogger('palm_jax.training').debug('a detail')
        logging.getLogger('asyncio').error('OCDBT: a write was abandoned')
        logging.getLogger('asyncio').error('an error of asyncio')
        logging.getLogger('another').info('from another library')
        return 0

    command_line.run(main)
"""


def test_a_program_prints_the_packages_log_as_plain_text_and_hides_known_noise():
    program = [sys.executable, '-c', textwrap.dedent(PROGRAM)]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, '3 parameters\n')
    assert result.stderr == 'a checkpoint is damaged\nan error of asyncio\n'


def test_a_library_logs_nothing_on_its_own():
    code = "import logging, palm_jax.training.checkpoints; logging.getLogger('palm_jax.training').info('3 parameters')"
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert '3 parameters' not in result.stdout + result.stderr
    code = "import logging, palm_jax.training.checkpoints; print(logging.getLogger('absl').filters)"
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == '[]\n'
