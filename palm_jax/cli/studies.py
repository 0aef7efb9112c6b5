"""What the programs of studies, `ablate` and `search`, share: their gin file, and a run of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palm_jax.errors import UserError

if TYPE_CHECKING:
    from palm_jax.training.writers import Writer


def read_study(path: str, flags: Sequence[tuple[str, str]], root: str, example: str) -> dict[str, Any]:
    """Return the arguments of a study.

    Args:
      path: gin file of the study.
      flags: (name, value as gin text) that override it.
      root: class of the study.
      example: file to copy, for the message.

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
    return load(root, [path], flags).build(root)


def train(
    gin_files: Sequence[str], bindings: Sequence[tuple[str, str]], command: str, writers: Sequence[Writer] = ()
) -> int:
    """Train or continue a run of a study, and forget its compiled programs; see `api.training.train`."""
    import jax

    from palm_jax.api import training

    try:
        return training.train(gin_files, bindings, command, writers=writers)
    finally:
        jax.clear_caches()
