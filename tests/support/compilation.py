"""XLA's flags with which tests compile; compilation is most of a small test's time."""

import os
import subprocess
import sys

# What is computed depends on neither.
FAST = '--xla_backend_optimization_level=0'
# A third of the time, and of that a sixth less where a program is one module; not every version of XLA has these flags.
FASTER = f'{FAST} --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'


def add_fast_compilation(flags):
    """Returns XLA_FLAGS with the flags for compiling fast that the installed XLA has.

    A flag that XLA lacks ends the process, so one is started that only tries them.
    """
    if FAST in flags:  # inherited from a process of the tests
        return flags
    code = 'from jaxlib import xla_client; xla_client.make_cpu_client()'
    tried = subprocess.run(
        [sys.executable, '-c', code], env=os.environ | {'XLA_FLAGS': FASTER}, capture_output=True, check=False
    )
    return f'{flags} {FAST if tried.returncode else FASTER}'.strip()
