"""The configuration that MODEL_DIR keeps, and the guard against continuing a run with another one."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from palm_jax.configuration import renames
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'gin-config', 'numpy', 'seqio', 'tensorflow', 'grain')
# Bindings that change how long a run takes and what it reports, not what it trains.
_MAY_CHANGE = (
    'MODEL_DIR', 'TRAIN_STEPS', 'WRITERS', 'PROMPTS',
    'LOG_PERIOD', 'EVAL_PERIOD', 'EVAL_BATCHES', 'CHECKPOINT_PERIOD', 'KEEP_CHECKPOINTS',
)  # fmt: skip


def keep(model_dir: Path, text: str, accept_changes: bool) -> None:
    """Write config.gin and versions.json to a run's directory.

    Args:
      model_dir: directory of the run, created if need be.
      text: configuration as gin text.
      accept_changes: whether a run of another configuration may be continued with this one.

    Raises:
      UserError: the directory holds a run of another configuration, or cannot be written.
    """
    run = RunDirectory(model_dir)
    path = run.config
    if path.is_file() and _holds_run(run) and not accept_changes:
        changes = difference(path.read_text(), text, _MAY_CHANGE)
        if changes:
            raise UserError(
                f'{model_dir} holds a run of another configuration:\n{changes}\n'
                'Use another directory with --gin.MODEL_DIR=..., or continue with the new one: --accept_changes'
            )
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        run.versions.write_text(json.dumps(versions(), indent=2) + '\n')
    except OSError as error:
        raise UserError(f'MODEL_DIR = {str(model_dir)!r} cannot be written: {error.strerror}.') from error


def _holds_run(run: RunDirectory) -> bool:
    """Return whether a run has left a checkpoint or metrics; one that was refused has not."""
    return any(run.checkpoints.glob('[0-9]*')) or (run.metrics.is_file() and run.metrics.stat().st_size > 0)


def difference(old: str, new: str, ignore: Sequence[str] = ()) -> str:
    """Return what differs between the bindings of two gin texts, as lines that begin with - and +.

    Args:
      old: what MODEL_DIR holds; names of earlier versions count as those of today.
      new: what is to run.
      ignore: names of bindings that may differ.
    """
    before, after = _bindings(renames.translate(old)), _bindings(new)
    lines = []
    for name in sorted((before.keys() | after.keys()) - set(ignore)):
        if before.get(name) != after.get(name):
            lines += [f'{sign}{side[name]}' for sign, side in (('-', before), ('+', after)) if name in side]
    return '\n'.join(lines)


def _bindings(text: str) -> dict[str, str]:
    """Return statements by the name that they bind; the last of a name holds, imports stand for themselves."""
    statements: list[str] = []
    for line in text.splitlines():
        if line[:1].isspace() and statements:  # the value of a long binding, on lines of its own
            statements[-1] = f'{statements[-1]}\n{line}'
        elif line.strip() and not line.startswith('#'):
            statements.append(line)
    return {statement.partition('=')[0].strip(): statement for statement in statements}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run depends on, and the commit of a checkout."""
    found = {'python': platform.python_version(), 'platform': platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    command = ['git', '-C', str(Path(__file__).parent), 'describe', '--always', '--dirty', '--abbrev=12']
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ''
    return found | ({'commit': commit} if commit else {})
