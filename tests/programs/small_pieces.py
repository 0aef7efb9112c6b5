"""`palm-jax cache` and `palm-jax infer` with small pieces, which one process of a job may not finish.

Arguments: the module of the program, and its arguments. With STUCK in the environment the process begins a piece,
writes a part of it, and sleeps until it is killed.
"""

import functools
import importlib
import os
import time

from palm_jax import pieces
from palm_jax.data.pretraining import token_pieces

make_all = pieces.make_all


def main(arguments):
    program, *rest = arguments
    token_pieces.CHARACTERS, token_pieces._EQUAL = 4000, 2
    pieces.make_all = make_all_but_hang if 'STUCK' in os.environ else make_all
    return importlib.import_module(program).main(rest)


def make_all_but_hang(folder, found, *more):
    return make_all(folder, lambda: [functools.partial(hang, make) for make in found()], *more)


def hang(make, path):
    del make
    path.write_text('cut')
    time.sleep(600)
