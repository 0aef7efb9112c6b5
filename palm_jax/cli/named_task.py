"""The data of a task by name, as in a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palm_jax.configuration.load import load
from palm_jax.configuration.statements import find_config
from palm_jax.configuration.statements import gin_files as all_gin_files
from palm_jax.configuration.trust import Trust
from palm_jax.errors import UserError, closest

_PRETRAINING = 'python_stdlib'


def data(
    name: str, gin_files: Sequence[str], flags: Sequence[tuple[str, str]], trust_modules: Sequence[str] = ()
) -> Any:
    """Return the data of a run on a task.

    Args:
      name: file of gin/tasks (banking77, python_stdlib, ...), or registered seqio task or mixture.
      gin_files: further gin files, such as an objective.
      flags: (NAME, value) of `--gin.NAME=value`.
      trust_modules: modules that a run's config.gin among the files may name besides those of palm_jax.
    """
    try:
        find_config(f'gin/tasks/{name}.gin', 'NAME')
    except UserError:
        files, of_name = ['gin/pretrain_tiny.gin'], [('MIXTURE_OR_TASK_NAME', name)]
    else:
        entry = 'gin/pretrain_tiny.gin' if name == _PRETRAINING else 'gin/finetune_lora.gin'
        files, of_name = [entry, f'gin/tasks/{name}.gin'], []
    configuration = load('loop.train', [*files, *gin_files], [*of_name, *flags], trust=Trust(tuple(trust_modules)))
    try:
        return configuration.build('loop.train')['data']
    except UserError as error:
        suggestion = closest(name, [Path(file).stem for file in all_gin_files() if file.startswith('gin/tasks/')])
        if of_name and suggestion and f'is called {name!r}' in str(error):
            raise UserError(f'gin/tasks has no {name}.gin.{suggestion}\n{error}') from None
        raise
