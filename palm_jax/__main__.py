"""python -m palm_jax <program>: the same as the console command `palm-jax <program>`."""

from palm_jax.cli.main import console

if __name__ == '__main__':
    console()
