"""python -m palm_jax.eval: the same program as `palm-jax eval`."""

from palm_jax.cli import command_line
from palm_jax.cli.eval import main

if __name__ == '__main__':
    command_line.run(main)
