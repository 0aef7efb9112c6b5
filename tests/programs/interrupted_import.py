"""A program that imports a module in which Ctrl-C comes, and which swallows it."""

import signal

from palm_jax.cli import command_line


def main(arguments):
    import tests.programs.swallows_interrupts  # noqa: F401

    return 0


if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell start without it
    command_line.run(main)
