"""python -m palm_jax.export: the same program as `palm-jax export`."""

from palm_jax.cli import command_line
from palm_jax.cli.export import main

if __name__ == '__main__':
    command_line.run(main)
