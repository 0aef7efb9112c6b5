"""Directories to export to."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from palm_jax.errors import UserError


def check(directory: Path) -> None:
    """Raise a UserError if an export to a directory would meet other files, or a file has its name."""
    for path in (directory, *directory.parents):
        if os.path.exists(path) and not os.path.isdir(path):  # False also for names that the system refuses
            raise UserError(f'{path} is a file, not a directory. Name a new directory to export to.')
    if os.path.isdir(directory) and any(directory.iterdir()):
        raise UserError(f'{directory} is not empty. Name another directory.')


def prepare(directory: Path) -> None:
    """Create a directory for an export; see `check`."""
    check(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{directory} cannot be created: {error.strerror or error}. Name another directory.') from None


def apply_umask(directory: Path) -> None:
    """Give all files of a directory the mode that the process gives to new files; some libraries write 0600."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        plain = Path(folder) / 'plain'
        plain.touch()
        mode = stat.S_IMODE(plain.stat().st_mode)
    for file in directory.rglob('*'):
        if file.is_file():
            file.chmod(mode)
