"""Flags of the programs that take a gin file, and errors without a traceback."""

from __future__ import annotations

import _thread
import argparse
import errno
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from palm_jax.cli.malloc import restart_with_malloc_tunables
from palm_jax.errors import UserError
from palm_jax.logs import show_logs
from palm_jax.run_directory import RunDirectory

# A disk that is full, a folder that may not be written: no fault of the program.
_OF_THE_MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR),
)


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser with what all programs share."""
    result = argparse.ArgumentParser(
        prog=started_as(program),
        description=description,
        epilog='--gin.NAME=value overrides a macro or a binding, e.g. --gin.TRAIN_STEPS=100',
        allow_abbrev=False,
    )
    result.add_argument('--gin_file', action='append', required=True, help='may be given several times; later ones win')
    return result


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} must be a whole number of at least 1')
    return int(text)


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Ordinary arguments, and (NAME, value) of every `--gin.NAME=value` or `--gin.NAME value`."""
    rest, flags, waiting = [], [], None
    for argument in arguments:
        if waiting is not None:
            flags.append((waiting, argument))
            waiting = None
        elif argument.startswith('--gin.'):
            name, equals, value = argument.removeprefix('--gin.').partition('=')
            if equals:
                flags.append((name.strip(), value.strip()))
            else:
                waiting = name
        else:
            rest.append(argument)
    if waiting is not None:
        raise UserError(f'--gin.{waiting} needs a value: --gin.{waiting}=...')
    return rest, flags


def run_of(gin_files: Sequence[str]) -> tuple[RunDirectory, Sequence[str]]:
    """The run whose config.gin is the first file, and the files that override it."""
    config, *changes = gin_files
    run = RunDirectory(Path(config).parent)
    if Path(config) != run.config or not run.config.is_file():
        raise UserError(f'--gin_file={config}: name the {run.config.name} that a run left in its MODEL_DIR.')
    return run, changes


def command(program: str, arguments: Sequence[str]) -> str:
    """Return the command that was typed, ready to be pasted into a shell."""
    return shlex.join([*started_as(program).split(), *arguments])


def started_as(program: str) -> str:
    """Return how this process was started: `palm-jax train`, or `python -m palm_jax.train`."""
    if program == 'train' and Path(sys.argv[0]).name == 'train.py':
        return 'python -m palm_jax.train'
    return f'palm-jax {program}'


def _take_dropped(unraisable: sys.UnraisableHookArgs) -> None:
    """What was raised where Python can only drop it.

    Ctrl-C within a callback (JAX has one of the garbage collector) comes again after it. When a save
    fails, TensorStore's threads tell the event loop, which is closed by then, of every other write;
    `Checkpoints` says what failed.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        again = threading.Timer(0.05, _thread.interrupt_main)
        again.daemon = True
        again.start()
    elif f'{unraisable.exc_value}' != 'Event loop is closed':
        sys.__unraisablehook__(unraisable)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C is a KeyboardInterrupt, but for one within an import: native modules that are being loaded drop it,
    make an ImportError of it, or crash. There is nothing to save then, and the program ends.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith('<frozen importlib'):
            _leave_interrupted()
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave_interrupted() -> None:
    """Ends the process; Python's own way out crashes where native threads are in the middle of a compilation."""
    print('interrupted', file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(130)


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Exits with main's code; a user's mistake is a message and code 2."""
    restart_with_malloc_tunables()
    show_logs()
    sys.unraisablehook = _take_dropped
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, _interrupt)
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        where = f'{error.filename}: ' if error.filename else ''
        print(f'error: {where}{error.strerror}. What was saved before is whole; mend it and go on.', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _leave_interrupted()
