"""A program in which Ctrl-C comes where Python drops exceptions."""

import signal
import time

from palm_jax.cli import command_line


class Dropped:
    def __del__(self):  # Python drops exceptions here, as in a callback of the garbage collector
        signal.raise_signal(signal.SIGINT)


def main(arguments):
    Dropped()
    for _ in range(1000):
        time.sleep(0.01)
    return 0


if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell start without it
    command_line.run(main)
