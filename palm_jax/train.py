"""python -m palm_jax.train --gin_file=gin/pretrain_tiny.gin [--gin.NAME=value ...] [--explain]

The same program as `palm-jax train`.
"""

from palm_jax.cli import command_line
from palm_jax.cli.train import main

if __name__ == '__main__':
    command_line.run(main)
