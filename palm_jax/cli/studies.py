"""What the programs of studies, `ablate` and `search`, share: their gin file, and a run of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palm_jax.errors import UserError

if TYPE_CHECKING:
    from palm_jax.training.writers import Writer


def read_study(
    path: str, flags: Sequence[tuple[str, str]], root: str, example: str, own: Mapping[str, str]
) -> dict[str, Any]:
    """Return the arguments of a study.

    Args:
      path: gin file of the study.
      flags: (name, value as gin text) that override it.
      root: class of the study.
      example: file to copy, for the message.
      own: what sets them instead, by the name of every macro of the runs that the study sets.

    Raises:
      UserError: there is no such file, or it is wrong.
    """
    from palm_jax.configuration.load import load
    from palm_jax.configuration.statements import find_config

    if not Path(path).is_file():
        try:
            find_config(path, '')
        except UserError:
            raise UserError(f'{path}: no such file. Write one like {example}.') from None

    def of_runs(name: str, value: str) -> str:
        if name in own:
            return f'{name} is not a macro of the study, which sets {name} of its runs itself: {own[name]}.'
        flag = f'--gin.{name}={value}'
        return f'{name} is a macro of the runs, not of the study. Add {flag!r} to the list FLAGS of {path}.'

    return load(root, [path], flags, of_other_files=of_runs).build(root)


def trainer(command: str) -> Callable[..., int]:
    """Return the function that trains or continues a run of a study; see `api.training.train`.

    Args:
      command: command that continues the study.
    """

    def train(gin_files: Sequence[str], bindings: Sequence[tuple[str, str]], writers: Sequence[Writer] = ()) -> int:
        import jax

        from palm_jax.api import training

        try:
            return training.train(gin_files, bindings, command, writers=writers, is_part=True)
        finally:
            jax.clear_caches()  # of a study with many runs, a process would grow

    return train


def metric_names(flags: Sequence[str]) -> set[str] | None:
    """Return the names of the numbers that summary.json of a run will have; None if its reporter does not say.

    Args:
      flags: flags of `palm-jax train`.

    Raises:
      UserError: the configuration or the data of the run is wrong.
    """
    from palm_jax.api import training
    from palm_jax.configuration.flags import gin_flags
    from palm_jax.reports.report import NUMBERS

    _, arguments = training.build(*gin_flags(flags))
    names = arguments['reporter'].metric_names(arguments['data'])
    return None if names is None else {'loss', *names, *NUMBERS}
