"""Checksums of checkpoints. Orbax stores none, and restores flipped bits without an error."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jax

from palm_jax.checkpoint_metadata import METADATA, metadata_folder
from palm_jax.errors import UserError
from palm_jax.run_directory import STATE

_CHECKSUMS = 'checksums-{process}.json'  # in a checkpoint's folder, a file per process


def seal(checkpoint: Path) -> None:
    """Stores the SHA-256 of a finished checkpoint's files in its folder; each process hashes its share of them."""
    process, count = jax.process_index(), jax.process_count()
    files = _files(checkpoint)[process::count]
    try:
        sums = {path.relative_to(checkpoint).as_posix(): _sha256(path) for path in files}
        final = checkpoint / _CHECKSUMS.format(process=process)
        unfinished = final.with_suffix('.unfinished')
        unfinished.write_text(json.dumps(sums))
        unfinished.replace(final)
    except FileNotFoundError:
        pass  # a newer checkpoint has replaced this one in the meantime


def is_sealed(checkpoint: Path) -> bool:
    """Whether a checkpoint has checksums; a process may be killed before it stores them."""
    return any(checkpoint.glob(_CHECKSUMS.format(process='*')))


def problem(checkpoint: Path) -> str | None:
    """The first missing or changed file of a checkpoint, as a message; None if it is intact."""
    if not (checkpoint / STATE).is_dir():
        return f'{checkpoint / STATE} is missing'
    if metadata_folder(checkpoint) is None:
        return f'{checkpoint / METADATA} is missing'
    for file in sorted(checkpoint.glob(_CHECKSUMS.format(process='*'))):
        try:
            sums = json.loads(file.read_text())
        except ValueError:
            return f'{file} is damaged'
        for name, expected in sums.items():
            path = checkpoint / name
            if not path.is_file():
                return f'{path} is missing'
            if _sha256(path) != expected:
                return f'{path} is damaged: its checksum differs from the one stored when it was saved'
    return None


def check(checkpoint: Path) -> None:
    """Refuses a damaged checkpoint and names the previous one.

    Raises:
      UserError: with the file that is missing or damaged.
    """
    found = problem(checkpoint)
    if found is None:
        return
    steps = [int(path.name) for path in checkpoint.parent.glob('*') if path.name.isdecimal()]
    earlier = [step for step in sorted(steps) if step < int(checkpoint.name)]
    advice = f' The checkpoint before it is {checkpoint.parent / str(earlier[-1])}.' if earlier else ''
    raise UserError(f'The checkpoint {checkpoint} cannot be used: {found}.{advice}')


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob('*') if path.is_file() and not path.name.startswith('checksums-'))


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
