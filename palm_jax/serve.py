"""python -m palm_jax.serve: the same program as `palm-jax serve`."""

from palm_jax.cli import command_line
from palm_jax.cli.serve import main

if __name__ == '__main__':
    command_line.run(main)
