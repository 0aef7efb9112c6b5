"""Training runs, from gin files and bindings to the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from palm_jax import locks
from palm_jax.configuration.load import Configuration, load
from palm_jax.configuration.record import Record
from palm_jax.data.readers import conll, tables
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory, repair_files
from palm_jax.training import distributed, loop, repeat
from palm_jax.training.run import Run
from palm_jax.training.writers import Writer

_LOGGER = logging.getLogger(__name__)

_ROOT = 'loop.train'


def build(gin_files: Sequence[str], bindings: Sequence[tuple[str, str]]) -> tuple[Configuration, dict[str, Any]]:
    """Return a run's configuration and the arguments of `loop.train`.

    Of several processes, the first one makes tables, vocabulary and tokens for all.

    Args:
      gin_files: paths, later ones override earlier ones.
      bindings: (name, value as gin text), which override the files.

    Raises:
      UserError: if the configuration, or what it is built of, is invalid.
    """
    configuration = load(_ROOT, gin_files, bindings)
    for read in (tables.read, conll.read):  # files may have been edited since an earlier run of this process
        read.cache_clear()
    with distributed.first_alone('the data is made'):
        arguments = configuration.build(_ROOT)
        _check_model_dir(arguments['model_dir'])
        arguments['data'].prepare(RunDirectory(arguments['model_dir']))
        if distributed.are_several():
            data = arguments['data']
            _LOGGER.info('data       %s training sequences', f'{data.num_sequences:,}')
            next(iter(data.validation(1)))
    return configuration, arguments


def _check_model_dir(model_dir: str) -> None:
    if '://' in model_dir:
        raise UserError(f'MODEL_DIR is {model_dir}; a run writes to a folder of this machine, or to one mounted here.')
    if Path(model_dir).exists() and not Path(model_dir).is_dir():
        raise UserError(f'MODEL_DIR is {model_dir}, a file; name a folder.')


def train(
    gin_files: Sequence[str],
    bindings: Sequence[tuple[str, str]],
    command: str = '',
    accept_changes: bool = False,
    start: float | None = None,
    writers: Sequence[Writer] = (),
    is_part: bool = False,
) -> int:
    """Train what a configuration describes; a MODEL_DIR that holds a run is continued.

    SEEDS trains one model per seed, in a directory of its own each.

    Args:
      gin_files: see `build`.
      bindings: see `build`.
      command: command that continues the run, for the report.
      accept_changes: whether a run may be continued with another configuration.
      start: when the program started, by `time.monotonic`; None is now.
      writers: writers of metrics besides those of the configuration.
      is_part: whether the run is a part of something that the command continues, see `Run`.

    Returns:
      0, or 128 + the number of the signal that interrupted the run; its state is saved.

    Raises:
      UserError: see `build` and `loop.train`.
    """
    start = time.monotonic() if start is None else start
    configuration, arguments = build(gin_files, bindings)
    arguments['writers'] = (*arguments['writers'], *writers)
    seeds = configuration.arguments_of('repeat.over_seeds').get('seeds')
    if seeds is None:
        return _train(configuration, arguments, accept_changes, Run(command=command, start=start, is_part=is_part))

    def train_with_seed(seed: int, model_dir: Path) -> int:
        of_run = Run(command=command, start=time.monotonic(), is_part=is_part)
        of_seed = [('SEED', str(seed)), ('MODEL_DIR', repr(str(model_dir))), ('SEEDS', 'None')]
        return _train(*build(gin_files, [*bindings, *of_seed]), accept_changes, of_run)

    with _alone_in(RunDirectory(Path(arguments['model_dir']))):
        return repeat.over_seeds(train_with_seed, Path(arguments['model_dir']), seeds)


def _train(configuration: Configuration, arguments: dict[str, Any], accept_changes: bool, run: Run) -> int:
    directory = RunDirectory(Path(arguments['model_dir']))
    record = Record(directory, configuration.text, accept_changes)
    with _alone_in(directory):
        with distributed.first_alone('the files of the run are checked'):
            if distributed.is_first():
                repair_files(directory)
        try:
            run = dataclasses.replace(run, config=configuration.text, record=record)
            return loop.train(**arguments, run=run)
        except UserError as error:
            raise UserError(configuration.located(str(error))) from error


@contextlib.contextmanager
def _alone_in(directory: RunDirectory) -> Iterator[None]:
    """Keep other runs out of a MODEL_DIR; of the processes of this run, the first one does.

    Raises:
      UserError: another process trains there, or the directory cannot be written.
    """
    if not distributed.is_first():
        yield
        return
    what = f'MODEL_DIR = {str(directory)!r}'
    with locks.hold_folder(directory.path, directory.lock, what, 'name another: --gin.MODEL_DIR=...'):
        yield
