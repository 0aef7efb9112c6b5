"""A program that is interrupted while JAX traces, where a bare `except` drops the exception, and goes on."""

import contextlib
import signal
import time

import jax

from palm_jax.cli import command_line


def interrupted(x):
    """Be interrupted, and drop what is raised."""
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGINT)
    return x


def main(arguments):
    jax.eval_shape(interrupted, 1.0)
    time.sleep(60)
    return 0


if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell start without it
    command_line.run(main)
