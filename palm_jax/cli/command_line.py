"""Shared command line of the programs: flags for gin, user errors without a traceback, signals."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from palm_jax.cache_directory import keep_compiled
from palm_jax.cli.parser import Parser
from palm_jax.configuration.flags import split_flags
from palm_jax.errors import UserError, closest
from palm_jax.logs import show_logs
from palm_jax.run_directory import RunDirectory, repair_files
from palm_jax.wording import shell_command

if TYPE_CHECKING:
    from palm_jax.api.trained_model import TrainedModel

# Errors of the machine, not of the program: a full disk, a read-only folder, links in a circle, too many open files.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_LOOP = 'Symlink loop'  # how `Path.resolve` words it before Python 3.13
_LONGEST_REASON = 400  # characters
_JAX = os.path.join('', 'jax', '_src', '')  # part of the names of JAX's files
_MACHINE_ERRORS = (
    *_FULL,
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBUSY, errno.ESTALE),
    *(errno.EMFILE, errno.ENFILE),
)


def parser(program: str, description: str, example: str, gin_file: str) -> Parser:
    """Return a parser of a program with a gin file.

    Args:
      program: name of the program.
      description: what it does, for `--help`.
      example: arguments that work.
      gin_file: what the first `--gin_file` is, for `--help` and for the message without one.
    """
    result = Parser(
        prog=started_as(program),
        description=description,
        epilog='--gin.NAME=value overrides a macro or a binding, e.g. --gin.TRAIN_STEPS=100',
        example=f'{started_as(program)} {example}',
        takes_bindings=True,
    )
    result.add_argument(
        '--gin_file',
        action='append',
        required=True,
        help=f'{gin_file}; may be repeated, later files override earlier ones',
    )
    return result


def add_trust(parser: Parser) -> None:
    """Add the flag by which a user trusts code that a run names; programs that only use runs have it."""
    parser.add_argument(
        '--trust_modules',
        metavar='MODULE[,MODULE]',
        type=lambda text: tuple(name.strip() for name in text.split(',') if name.strip()),
        default=(),
        help='modules outside palm_jax whose functions and classes a run may name; loading the run executes their code',
    )


RUN_CONFIG = 'config.gin in the MODEL_DIR of a run, e.g. runs/tiny/config.gin'


def run_of(gin_files: Sequence[str], flag: str = '--gin_file') -> tuple[RunDirectory, Sequence[str]]:
    """The run whose config.gin is the first file, and the files that override it.

    Args:
      gin_files: the files.
      flag: flag that names them, for messages.
    """
    config, *changes = gin_files
    path = Path(config)
    run = RunDirectory(path.parent)
    repair_files(run)
    if path == run.config and path.is_file():
        return run, changes
    if path.is_dir():
        inside = RunDirectory(path).config
        found = 'is a folder' if inside.is_file() else f'is a folder that holds no {inside.name}, so not a MODEL_DIR'
        suggestion = f' Write {flag}={inside}' if inside.is_file() else ''
    elif path != run.config:
        found, suggestion = f'is not the {run.config.name} of a run', ''
    elif run.path.is_dir():
        found, suggestion = f'does not exist: {run} holds no {run.config.name}, so it is not a MODEL_DIR', ''
    else:
        runs = [str(other) for other in run.path.parent.glob(f'*/{run.config.name}')]
        found, suggestion = 'does not exist', closest(config, runs)
    raise UserError(
        f'{flag}={config} {found}: name the {run.config.name} that a run left in its MODEL_DIR.{suggestion}'
    )


@dataclasses.dataclass(frozen=True)
class ChosenRun:
    """The run that a program works on, with what its command line overrides.

    Attributes:
      directory: MODEL_DIR of the run.
      gin_files: gin files that override its configuration.
      bindings: (name, value as gin text) of bindings that override its configuration.
      trust_modules: modules outside palm_jax that its configuration may name.
    """

    directory: RunDirectory
    gin_files: Sequence[str]
    bindings: Sequence[tuple[str, str]]
    trust_modules: Sequence[str]

    @property
    def path(self) -> Path:
        """Path of the MODEL_DIR."""
        return self.directory.path

    def load(self, *bindings: tuple[str, str]) -> TrainedModel:
        """Load the model, with further bindings; see `palm_jax.api.loading.load_with`."""
        from palm_jax.api import loading

        overrides = [*self.bindings, *bindings]
        return loading.load_with(self.path, overrides, self.gin_files, trust_modules=self.trust_modules)


def parse_run(parser: Parser, arguments: Sequence[str]) -> tuple[argparse.Namespace, ChosenRun]:
    """Parse the command line of a program whose first `--gin_file` is the config.gin of a run.

    Args:
      parser: parser with `--gin_file` and the flag of `add_trust`.
      arguments: arguments of the program.

    Returns:
      The options, and the run.

    Raises:
      UserError: the arguments cannot be parsed, or the run does not exist.
    """
    rest, bindings = split_flags(arguments)
    options = parser.parse_args(rest)
    directory, gin_files = run_of(options.gin_file)
    return options, ChosenRun(directory, gin_files, bindings, options.trust_modules)


def writable(output: Path) -> Path:
    """Return a file that a program is to write at its end.

    Raises:
      UserError: it cannot be written: its folder does not exist or is read-only, or it is a folder itself.
    """
    if not output.parent.is_dir():
        raise UserError(f'--output: the folder {output.parent} does not exist.')
    if output.is_dir() or not os.access(output if output.exists() else output.parent, os.W_OK):
        raise UserError(f'--output: {output} cannot be written. Name another file, e.g. --output={output.name}')
    return output


def command(program: str, arguments: Sequence[str]) -> str:
    """Return the command that was typed, ready to be pasted into a shell."""
    return shell_command([*started_as(program).split(), *arguments])


def started_as(program: str) -> str:
    """Return how this process was started: `palm-jax train`, or `python -m palm_jax.train`."""
    if program == 'train' and Path(sys.argv[0]).name == 'train.py':
        return 'python -m palm_jax.train'
    return f'palm-jax {program}'


def _handle_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Handle exceptions that Python cannot propagate.

    Ctrl-C in a callback (JAX has one in the garbage collector) is raised again after it. When a save fails,
    TensorStore's threads report every other write to the event loop, which is closed by then; these reports are
    dropped, because `Checkpoints` reports the failure.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        _interrupt_again(0.05)
    elif f'{unraisable.exc_value}' != 'Event loop is closed':
        sys.__unraisablehook__(unraisable)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt on Ctrl-C; during an import, exit at once.

    Native modules that are being loaded drop the exception, turn it into an ImportError, or crash, and there is
    nothing to save yet. JAX drops it where it has a bare `except` (when it traces and lowers); there it is raised again
    while the program still runs.
    """
    droppable = False
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith('<frozen importlib'):
            _exit_interrupted()
        droppable = droppable or _JAX in file
        frame = frame.f_back
    if droppable:
        _interrupt_again(1.0)
    raise KeyboardInterrupt


def _interrupt_again(seconds: float) -> None:
    """Interrupt the main thread after some seconds, as Ctrl-C does."""
    again = threading.Timer(seconds, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    again.daemon = True
    again.start()


def _exit_interrupted() -> None:
    """Exit at once; Python's regular exit crashes while native threads are compiling."""
    print('interrupted', file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(130)


_RENAMED_FLAGS = {'--places': '--slots'}


def _refuse_old_flags(arguments: Sequence[str]) -> None:
    for argument in arguments:
        name = argument.partition('=')[0]
        if name in _RENAMED_FLAGS:
            raise UserError(f'{name} is now called {_RENAMED_FLAGS[name]}: write that instead.')


def _print_any_character() -> None:
    """Let stdout and stderr escape what their encoding lacks: an ASCII locale, a lone surrogate in a file's name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Exit with the code of `main`; a UserError becomes a message and code 2."""
    _print_any_character()
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # TensorFlow reports missing GPUs as errors
    keep_compiled()
    show_logs()
    sys.unraisablehook = _handle_unraisable
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # background jobs of a shell ignore it
        signal.signal(signal.SIGINT, _interrupt)
    try:
        _refuse_old_flags(sys.argv[1:])
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        _exit_interrupted()
    except Exception as error:
        reason = _of_the_machine(error)
        if reason is None:
            raise
        print(
            f'error: {reason}. Earlier checkpoints are intact. Fix the problem and rerun the command.', file=sys.stderr
        )
        sys.exit(2)


def _of_the_machine(error: Exception) -> str | None:
    """Return what the machine cannot do, if that is why an exception was raised; None for another reason.

    Libraries in native code (ArrayRecord, TensorStore, safetensors) raise errors of their own, with the system's words.
    """
    if isinstance(error, OSError):
        where = f'{error.filename}: ' if error.filename else ''
        return f'{where}{error.strerror}' if error.errno in _MACHINE_ERRORS else None
    words = str(error)
    if any(phrase in words for phrase in (*map(os.strerror, _FULL), _LOOP)):
        return words.strip().partition('\n')[0][:_LONGEST_REASON].rstrip('.')
    return None
