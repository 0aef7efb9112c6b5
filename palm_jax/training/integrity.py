"""Checksums of checkpoints. Orbax stores none, and restores flipped bits without an error."""

from __future__ import annotations

import hashlib
import json
import os
import types
from collections.abc import Mapping
from pathlib import Path

import jax

from palm_jax.checkpoint_metadata import METADATA, Seal, is_finished, metadata_folder, read_seals, seal_file
from palm_jax.errors import UserError
from palm_jax.run_directory import STATE, numbered, write_whole


def seal(checkpoint: Path, kept: Mapping[str, bytes] = types.MappingProxyType({})) -> None:
    """Stores the SHA-256 of a checkpoint's files in its folder, which makes it a finished checkpoint.

    All files are on disk before the seal is. Each process hashes its share of the files.

    Args:
      checkpoint: folder of the checkpoint, otherwise complete.
      kept: contents of further files by name, which the first process adds.
    """
    process, count = jax.process_index(), jax.process_count()
    files = [path for path in _files(checkpoint) if path.parent != checkpoint or path.name not in kept][process::count]
    if process == 0:
        for name, content in kept.items():
            write_whole(checkpoint / name, content)
            files.append(checkpoint / name)
    sums = {path.relative_to(checkpoint).as_posix(): _sha256(path, sync=True) for path in files}
    for folder in (*{path.parent for path in files}, checkpoint, checkpoint.parent):
        _sync_folder(folder)
    write_whole(seal_file(checkpoint, process), json.dumps(Seal(sums, int(checkpoint.name), count).to_json()))
    _sync_folder(checkpoint)


def has_checksums(checkpoint: Path) -> bool:
    """Whether a checkpoint has checksums; those of earlier versions may lack them."""
    return any(checkpoint.glob(seal_file(checkpoint, '*').name))


def problem(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, such as its first missing or changed file; None if it is intact."""
    if not (checkpoint / STATE).is_dir():
        return f'{checkpoint / STATE} is missing'
    if metadata_folder(checkpoint) is None:
        return f'{checkpoint / METADATA} is missing'
    if not is_finished(checkpoint):
        return 'it was not written to its end: checksums are missing'
    try:
        seals = read_seals(checkpoint)
    except UserError as error:
        return str(error)
    sums = {name: checksum for one in seals for name, checksum in one.files.items()}
    for one in seals:
        if one.step not in (None, int(checkpoint.name)):
            return f'it was saved as step {one.step:,}, so its folder was renamed or copied'
    if seals and seals[0].step is None:  # the seal of an earlier version does not protect itself
        for path in _files(checkpoint):
            if path.relative_to(checkpoint).as_posix() not in sums and not path.name.startswith('.'):
                return f'{path} has no checksum'
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
    earlier = [path for path in numbered(checkpoint.parent) if int(path.name) < int(checkpoint.name)]
    advice = f' The checkpoint before it is {earlier[-1]}.' if earlier else ''
    raise UserError(f'The checkpoint {checkpoint} cannot be used: {found}.{advice}')


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob('*') if path.is_file() and not path.name.startswith('checksums-'))


def _sha256(path: Path, sync: bool = False) -> str:
    with path.open('rb') as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _sync_folder(folder: Path) -> None:
    """Put the names of a folder's files on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
