"""Token ids on disk: written once, checksummed, read at random without TensorFlow."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from palm_jax.errors import UserError

_TOKENS, _OFFSETS, _MANIFEST = 'tokens.bin', 'offsets.npy', 'manifest.json'


@dataclasses.dataclass(frozen=True)
class TokenCache:
    """One split of one task as one stream of tokens.

    Attributes:
      tokens: uint16 or uint32 [T], documents one after another, each with its end mark.
      offsets: int64 [documents + 1], where each begins.
      num_bytes: UTF-8 bytes of the text the tokens stand for.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    num_bytes: int


def build(examples: Iterable[tuple[np.ndarray, int]], directory: Path, vocabulary_size: int, label: str) -> None:
    """Writes the tokens of `examples` (ids, bytes of text) into `directory`, whole or not at all."""
    unfinished = directory.with_name(directory.name + '.unfinished')
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    dtype = np.dtype(np.uint16 if vocabulary_size <= 1 << 16 else np.uint32)
    digest, offsets, num_bytes = hashlib.sha256(), [0], 0
    with (unfinished / _TOKENS).open('wb') as file, tqdm(unit=' tokens', unit_scale=True, desc=label) as progress:
        for ids, size in examples:
            data = ids.astype(dtype).tobytes()
            file.write(data)
            digest.update(data)
            offsets.append(offsets[-1] + len(ids))
            num_bytes += size
            progress.update(len(ids))
    if len(offsets) == 1:
        raise UserError(f'{label}: there is not one example. Check the task and its files.')
    np.save(unfinished / _OFFSETS, np.array(offsets, np.int64))
    manifest = {
        'dtype': dtype.name,
        'tokens': offsets[-1],
        'documents': len(offsets) - 1,
        'num_bytes': num_bytes,
        'sha256': digest.hexdigest(),
    }
    (unfinished / _MANIFEST).write_text(json.dumps(manifest, indent=2))
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)


def exists(directory: Path) -> bool:
    """Whether a finished cache is there."""
    return (directory / _MANIFEST).is_file()


def open_cache(directory: Path) -> TokenCache:
    """Maps a finished cache into memory; a damaged one is an error."""
    manifest = json.loads((directory / _MANIFEST).read_text())
    tokens = np.memmap(directory / _TOKENS, dtype=manifest['dtype'], mode='r')
    if len(tokens) != manifest['tokens'] or hashlib.sha256(tokens).hexdigest() != manifest['sha256']:
        raise UserError(f'The token cache {directory} is damaged. Delete this folder; it will be made again.')
    return TokenCache(tokens, np.load(directory / _OFFSETS), manifest['num_bytes'])
