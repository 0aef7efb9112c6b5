"""palm-jax cache NAME [--gin_file=...] [--gin.NAME=value ...] [--splits train validation] [--verify]

Makes a task's vocabulary and tokens before a run needs them, with progress; interrupted, it goes on where it
stopped. A run with the same bindings then reads them at random, without TensorFlow. --verify reads everything
again and compares checksums.

NAME is python_stdlib, or a registered seqio task or mixture; own files: python_stdlib --gin.TRAIN_FILES=notes/.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from palm_jax.cli import command_line, named_task
from palm_jax.data.pretraining import token_cache
from palm_jax.data.pretraining.dataset import LanguageModelData
from palm_jax.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Builds what is missing, and lists what is there."""
    parser = argparse.ArgumentParser(
        prog='palm-jax cache', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', help='of the task')
    parser.add_argument('--gin_file', action='append', default=[], help='more of the configuration')
    parser.add_argument('--splits', nargs='+', default=['train', 'validation'])
    parser.add_argument('--verify', action='store_true', help='compare the checksums of what is there')
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    data = named_task.data(options.name, options.gin_file, flags)
    if not isinstance(data, LanguageModelData):
        raise UserError(f'{options.name} is read from its tables, which need no cache; tokens are kept of text alone.')
    for split in options.splits:
        for directory in data.corpus.make(split):
            cache = token_cache.TokenCache(directory)
            checked = f', {token_cache.verify(directory)} file(s) are as they were written' if options.verify else ''
            documents = len(cache.offsets) - 1
            print(f'{cache.num_tokens:>15,} tokens of {documents:,} documents in {directory}{checked}')
    return 0
