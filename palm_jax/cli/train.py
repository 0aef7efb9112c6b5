"""python -m palm_jax.train --gin_file=gin/pretrain_tiny.gin [--gin.NAME=value ...] [--explain]"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palm_jax.cli import command_line
from palm_jax.configuration.load import Configuration


def main(arguments: Sequence[str]) -> int:
    """Flags to gin to one call."""
    start = time.monotonic()
    from palm_jax.training import distributed

    parser = command_line.parser('train', 'Trains a model; a directory that holds a run is continued.')
    parser.add_argument('--explain', action='store_true', help='print what the run will do, and stop')
    parser.add_argument(
        '--devices', type=command_line.positive, help='with --explain: plan for so many devices instead of those here'
    )
    parser.add_argument('--accept_changes', action='store_true', help='continue a run with another configuration')
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    if not options.explain:
        distributed.join()
    configuration = command_line.load_configuration('loop.train', options.gin_file, flags)
    arguments_of_train = _build(configuration)
    seeds = configuration.bound('repeat.over_seeds.seeds')

    if options.explain:
        from palm_jax.cli import explain

        print(explain.explain(configuration, arguments_of_train, options.devices))
        return 0

    from palm_jax.configuration import record
    from palm_jax.training import loop, repeat

    command = command_line.command('train', arguments)

    def train(configuration: Configuration, arguments_of_train: dict[str, Any], start: float) -> int:
        with distributed.first_alone('the configuration is kept'):
            if distributed.is_first():
                record.keep(Path(arguments_of_train['model_dir']), configuration.text, options.accept_changes)
        return loop.train(**arguments_of_train, run=loop.Run(configuration.text, command, start))

    if seeds is None:
        return train(configuration, arguments_of_train, start)

    def with_seed(seed: int, model_dir: Path) -> int:
        start = time.monotonic()
        its_own = [('SEED', str(seed)), ('MODEL_DIR', repr(str(model_dir))), ('SEEDS', 'None')]
        configuration = command_line.load_configuration('loop.train', options.gin_file, [*flags, *its_own])
        return train(configuration, _build(configuration), start)

    return repeat.over_seeds(with_seed, Path(arguments_of_train['model_dir']), seeds)


def _build(configuration: Configuration) -> dict[str, Any]:
    """The arguments of `loop.train`; of several processes the first makes tables, vocabulary and tokens for all."""
    from palm_jax.training import distributed

    with distributed.first_alone('the data is made'):
        arguments = configuration.build('loop.train')
        if distributed.are_several():
            data = arguments['data']
            print(f'data       {data.num_sequences:,} training sequences')
            next(iter(data.validation(1)))
    return arguments
