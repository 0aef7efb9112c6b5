"""Checksums of checkpoints: Orbax has none, and restores flipped bytes without a word."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jax

from palm_jax.errors import UserError

_CHECKSUMS = 'checksums-{process}.json'  # in a step's folder


def seal(directory: Path) -> None:
    """Keeps the SHA-256 of a finished checkpoint's files in its folder; of several processes each takes its share."""
    process, count = jax.process_index(), jax.process_count()
    files = _files(directory)[process::count]
    try:
        sums = {path.relative_to(directory).as_posix(): _sha256(path) for path in files}
        place = directory / _CHECKSUMS.format(process=process)
        unfinished = place.with_suffix('.unfinished')
        unfinished.write_text(json.dumps(sums))
        unfinished.replace(place)
    except FileNotFoundError:
        pass  # a newer one has taken its place meanwhile


def is_sealed(directory: Path) -> bool:
    """Whether its checksums are there; a kill may have come before them."""
    return any(directory.glob(_CHECKSUMS.format(process='*')))


def problem(directory: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    for part in ('state', 'about'):
        if not (directory / part).is_dir():
            return f'{directory / part} is missing'
    for file in sorted(directory.glob(_CHECKSUMS.format(process='*'))):
        try:
            sums = json.loads(file.read_text())
        except ValueError:
            return f'{file} is damaged'
        for name, expected in sums.items():
            path = directory / name
            if not path.is_file():
                return f'{path} is missing'
            if _sha256(path) != expected:
                return f'{path} is damaged: its checksum is not that of what was saved'
    return None


def check(directory: Path) -> None:
    """Refuses a checkpoint that is damaged, and names the one before it.

    Raises:
      UserError: with the file.
    """
    found = problem(directory)
    if found is None:
        return
    steps = [int(path.name) for path in directory.parent.glob('*') if path.name.isdigit()]
    before = [step for step in sorted(steps) if step < int(directory.name)]
    advice = f' Before it there is {directory.parent / str(before[-1])}.' if before else ''
    raise UserError(f'The checkpoint {directory} cannot be used: {found}.{advice}')


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob('*') if path.is_file() and not path.name.startswith('checksums-'))


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
