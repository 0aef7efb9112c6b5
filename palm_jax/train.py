"""python -m palm_jax.train --gin_file=gin/pretrain_tiny.gin [--gin.NAME=value ...] [--explain]"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from palm_jax import command_line


def main(arguments: Sequence[str]) -> int:
    """Flags to gin to one call."""
    start = time.monotonic()
    parser = command_line.parser('train', 'Trains a model; a directory that holds a run is continued.')
    parser.add_argument('--explain', action='store_true', help='print what the run will do, and stop')
    parser.add_argument('--devices', type=int, help='with --explain: plan for so many devices instead of those here')
    parser.add_argument('--accept_changes', action='store_true', help='continue a run with another configuration')
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    configuration = command_line.load_configuration('loop.train', options.gin_file, flags)
    arguments_of_train = configuration.build('loop.train')

    if options.explain:
        from palm_jax import explain

        print(explain.explain(configuration, arguments_of_train, options.devices))
        return 0

    from palm_jax.configuration import record
    from palm_jax.training import loop

    record.keep(Path(arguments_of_train['model_dir']), configuration.text, options.accept_changes)
    run = loop.Run(configuration.text, command_line.command('train', arguments), start)
    return loop.train(**arguments_of_train, run=run)


if __name__ == '__main__':
    command_line.run(main)
