"""python -m palm_jax.train --gin_file=gin/pretrain_tiny.gin [--gin.NAME=value ...] [--explain]"""

from __future__ import annotations

import time
from collections.abc import Sequence

from palm_jax.cli import command_line
from palm_jax.cli.parser import positive
from palm_jax.configuration.flags import split_flags
from palm_jax.configuration.statements import entry_files


def main(arguments: Sequence[str]) -> int:
    """Train, or explain what training would do."""
    start = time.monotonic()
    parser = command_line.parser(
        'train',
        'Trains a model; a directory that holds a run is continued.',
        '--gin_file=gin/pretrain_tiny.gin',
        f'entry file of a run ({", ".join(entry_files())}, or your own)',
    )
    parser.add_argument(
        '--explain', action='store_true', help='print what the run will do, and exit; the code is 2 if it would fail'
    )
    parser.add_argument(
        '--devices',
        type=positive,
        needs='--explain',
        help='with --explain: number of devices to plan for; default: those here',
    )
    parser.add_argument('--accept_changes', action='store_true', help='continue a run with another configuration')
    rest, bindings = split_flags(arguments)
    options = parser.parse_args(rest)

    from palm_jax.training import distributed

    if options.explain:
        from palm_jax.api import training
        from palm_jax.cli import explain

        text, problem = explain.explain(*training.build(options.gin_file, bindings), options.devices)
        print(text)
        return 0 if problem is None else 2
    distributed.join()
    from palm_jax.api import training

    command = command_line.command('train', arguments)
    return training.train(options.gin_file, bindings, command, options.accept_changes, start)
