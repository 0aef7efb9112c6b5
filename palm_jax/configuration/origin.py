"""Relative paths in the configuration of a run, for programs that are started elsewhere than the run was."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from palm_jax.configuration.load import open_source
from palm_jax.configuration.statements import read_statements

_NAMES_FILES = re.compile(r'\w+_FILES|INITIAL_CHECKPOINT_PATH')  # macros


def paths_from(config: Path) -> list[tuple[str, str]]:
    """Return bindings (name, value as gin text) of the files that a run names relative to where it was started.

    That is the folder from which its MODEL_DIR leads to the run. What the working directory has under the same name is
    left as it is, and so is what neither of them has.

    Args:
      config: config.gin of the run.
    """
    statements, _ = read_statements(open_source(str(config)))
    values = {s.name: s.value for s in statements if s.is_macro and isinstance(s.value, str)}
    folder = _start_of(config.parent, values.get('MODEL_DIR'))
    if folder is None:
        return []
    named = {name: value for name, value in values.items() if _NAMES_FILES.fullmatch(name)}
    return [
        (name, repr(str(folder / value)))
        for name, value in named.items()
        if not _is_there(Path(value)) and _is_there(folder / value)
    ]


def _start_of(run: Path, model_dir: str | None) -> Path | None:
    """Return the folder that a run was started in; None where its MODEL_DIR does not say, or where it was moved."""
    if model_dir is None or Path(model_dir).is_absolute():
        return None
    parts, found = Path(model_dir).parts, run.expanduser().absolute()
    return found.parents[len(parts) - 1] if found.parts[-len(parts) :] == parts else None


def _is_there(path: Path) -> bool:
    name = re.sub(r'(\.json(\.\w+)?)#.+', r'\1', str(path))  # a part of a file, see `tables.read`
    return Path(name).exists() or bool(glob.glob(name, recursive=True))
