"""A program in which Python drops a RuntimeError: python -m tests.programs.drops_an_exception MESSAGE."""

from palm_jax.cli import command_line


class Dropped:
    def __init__(self, message):
        self.message = message

    def __del__(self):
        raise RuntimeError(self.message)


def main(arguments):
    Dropped(*arguments)
    return 0


if __name__ == '__main__':
    command_line.run(main)
