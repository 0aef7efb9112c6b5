"""python -m palm_jax.infer: the same program as `palm-jax infer`."""

from palm_jax.cli import command_line
from palm_jax.cli.infer import main

if __name__ == '__main__':
    command_line.run(main)
