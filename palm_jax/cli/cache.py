"""palm-jax cache NAME [--gin_file=...] [--gin.NAME=value ...] [--splits train validation] [--verify]

Builds the vocabulary and the tokens of a task ahead of a run, with progress; when interrupted, the same command
resumes. A run with the same bindings then reads them, without TensorFlow. --verify compares the checksums of
all files. Started many times by Slurm, MPI or a Kubernetes Job, its processes divide the text among themselves.

NAME is python_stdlib, or a registered seqio task or mixture. For text files of your own:
python_stdlib --gin.TRAIN_FILES=notes/
"""

from __future__ import annotations

from collections.abc import Sequence

from palm_jax import job
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser
from palm_jax.configuration.flags import split_flags
from palm_jax.errors import UserError
from palm_jax.wording import counted


def main(arguments: Sequence[str]) -> int:
    """Build missing caches, and list all of them."""
    parser = Parser(
        prog='palm-jax cache', description=__doc__, example='palm-jax cache python_stdlib', takes_bindings=True
    )
    parser.add_argument('name', help='name of the task')
    parser.add_argument(
        '--gin_file', action='append', default=[], help='further gin file; may be repeated; default: none'
    )
    parser.add_argument('--splits', nargs='+', default=['train', 'validation'], help='splits to tokenize')
    parser.add_argument('--verify', action='store_true', help='compare checksums')
    command_line.add_trust(parser)
    rest, flags = split_flags(arguments)
    options = parser.parse_args(rest)
    process = job.process_index()
    if process:
        job.be_silent()
    from palm_jax.cli import named_task
    from palm_jax.data.pretraining import token_cache
    from palm_jax.data.pretraining.dataset import LanguageModelData

    data = named_task.data(options.name, options.gin_file, flags, options.trust_modules)
    if not isinstance(data, LanguageModelData):
        raise UserError(
            f'{options.name} is read from tables, which need no cache; only tokens of pretraining text are cached.'
        )
    for split in options.splits:
        for directory in data.corpus.build(split, together=process is not None):
            cache = token_cache.TokenCache(directory)
            verified = f', {counted(token_cache.verify(directory), "file")} verified' if options.verify else ''
            documents = len(cache.offsets) - 1
            print(f'{cache.num_tokens:>15,} tokens of {documents:,} documents in {directory}{verified}')
    return 0
