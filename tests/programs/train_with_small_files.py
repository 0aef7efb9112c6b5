"""Trains with a limit on the size of files. Arguments: the limit in bytes, and the flags of `palm_jax.train`."""

import resource

from palm_jax.cli import train


def main(arguments):
    limit, *flags = arguments
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    return train.main(flags)
