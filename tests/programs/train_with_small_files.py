"""Trains with a limit on the size of files: python -m tests.programs.train_with_small_files BYTES [flags of train]."""

import resource
import runpy
import sys

limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
runpy.run_module('palm_jax.train', run_name='__main__')
