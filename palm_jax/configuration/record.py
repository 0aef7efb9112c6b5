"""The configuration that MODEL_DIR keeps, and the guard against continuing a run with another one, or on other data."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
import logging
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palm_jax.configuration import gin_adapter, renames
from palm_jax.configuration.compose import render
from palm_jax.configuration.statements import GinText, Macro, Statement, open_file, read_statements
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory, write_whole

_LOGGER = logging.getLogger(__name__)
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'gin-config', 'numpy', 'seqio', 'tensorflow', 'grain')
# Bindings that change how long a run takes and what it reports, not what it trains.
MAY_CHANGE = (
    'MODEL_DIR', 'TRAIN_STEPS', 'WRITERS', 'PROMPTS',
    *('generate.Sampler.logit_bias', 'generate.Sampler.steering'),
    'LOG_PERIOD', 'EVAL_PERIOD', 'EVAL_BATCHES', 'CHECKPOINT_PERIOD', 'KEEP_CHECKPOINTS', 'KEEP_EVERY',
    *(f'loop.train.{name}' for name in ('model_dir', 'total_steps', 'writers')),
    *(f'loop.Periods.{name}' for name in ('log', 'evaluate', 'evaluate_batches', 'checkpoint', 'keep', 'keep_every')),
)  # fmt: skip
DataIdentity = Mapping[str, Mapping[str, Any]]  # by split; see `interfaces.Data.identity`
_SPLITS = {'train': 'training data', 'validation': 'held-out data'}


@dataclasses.dataclass(frozen=True)
class Record:
    """The record of a run: its configuration, in config.gin, and versions.json.

    Attributes:
      run: directory of the run, created if need be.
      text: configuration as gin text.
      accept_changes: whether a run of another configuration, or of other data, may be continued with this one.
    """

    run: RunDirectory
    text: str
    accept_changes: bool = False

    def check(self, before: DataIdentity | None, now: DataIdentity) -> None:
        """Compare the configuration with the one that the directory holds, and the data with those of its checkpoint.

        Args:
          before: what the run has read so far; None if it does not say.
          now: what it would read now.

        Raises:
          UserError: the directory holds a run of another configuration or of other data.
        """
        is_run = self.run.config.is_file() and self.run.is_begun
        of_configuration = difference(open_file(self.run.config).text, self.text, MAY_CHANGE) if is_run else ''
        shown = '\n'.join(filter(None, (of_configuration, _data_difference(before or {}, now))))
        if not shown:
            return
        if not self.accept_changes:
            raise UserError(
                f'{self.run} holds a run of {"another configuration" if of_configuration else "other data"}:\n{shown}\n'
                'Use another directory with --gin.MODEL_DIR=..., or continue with the new one: --accept_changes'
            )
        _LOGGER.warning('continuing with what has changed:\n%s', shown)

    def keep(self) -> None:
        """Write config.gin and versions.json.

        Raises:
          UserError: the directory cannot be written.
        """
        try:
            self.run.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.run.config, self.text)
            write_whole(self.run.versions, json.dumps(versions(), indent=2) + '\n')
        except OSError as error:
            raise UserError(f'MODEL_DIR = {str(self.run)!r} cannot be written: {error.strerror}.') from error


def _data_difference(before: DataIdentity, now: DataIdentity) -> str:
    """Return which splits differ, as lines that begin with - and +; a split that `before` lacks does not differ."""
    lines = []
    for split, name in _SPLITS.items():
        if split in before and dict(before[split]) != dict(now[split]):
            for sign, of_side in (('-', before[split]), ('+', now[split])):
                values = [f'{value:,} {key}' if isinstance(value, int) else f'{key} {str(value)[:12]}'
                          for key, value in of_side.items()]  # fmt: skip
                lines.append(f'{sign}{name}: {", ".join(values)}')
    return '\n'.join(lines)


def difference(old: str, new: str, ignore: Sequence[str] = ()) -> str:
    """Return how two configurations differ, as lines of gin that begin with - and +.

    Names of earlier versions count as those of today, and a parameter that only one of them binds
    counts as equal if it is bound to its default.

    Args:
      old: gin text that MODEL_DIR holds.
      new: gin text of the configuration that is to run.
      ignore: names of bindings that may differ.
    """
    before, after = _bindings(renames.translate(old)), _bindings(new)
    lines = []
    for name in sorted((before.keys() | after.keys()) - set(ignore)):
        if not _agree(name, before, after):
            sides = (('-', before), ('+', after))
            lines += [f'{sign}{name} = {render(side[name].value)}' for sign, side in sides if name in side]
    return '\n'.join(lines)


def _bindings(text: str) -> dict[str, Statement]:
    statements, _ = read_statements(GinText(text, 'config.gin'))
    return {statement.name: statement for statement in statements}


def _agree(name: str, before: Mapping[str, Statement], after: Mapping[str, Statement]) -> bool:
    """Return whether a binding is the same in two configurations."""
    if name in before and name in after:
        old, new = before[name], after[name]
        return old.value == new.value or (not old.is_macro and _expand(old.value, before) == _expand(new.value, after))
    bindings = before if name in before else after
    statement = bindings[name]
    # A macro acts through the parameters that read it, which are compared themselves.
    return statement.is_macro or _expand(statement.value, bindings) == _default(statement)


def _expand(value: Any, bindings: Mapping[str, Statement]) -> Any:
    """Return a value with its macros replaced by their values, and lists by tuples."""
    if isinstance(value, Macro):
        return _expand(bindings[value.name].value, bindings) if value.name in bindings else value
    if isinstance(value, dict):
        return {_expand(key, bindings): _expand(item, bindings) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_expand(item, bindings) for item in value)
    return value


def _default(statement: Statement) -> Any:
    """Return the default of the parameter that a statement binds; a value of its own if there is none."""
    try:
        default = inspect.signature(gin_adapter.function(statement.selector)).parameters[statement.parameter].default
    except (ValueError, KeyError):
        return inspect.Parameter.empty
    return _expand(default, {})


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
