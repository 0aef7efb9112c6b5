"""Cache of token ids on disk: written once, checksummed, with random access, without TensorFlow.

A split of a task is one stream of tokens, one document after another, in ArrayRecord files with many
records of `BLOCK` tokens each. An interrupted build resumes after its last complete file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from palm_jax.errors import UserError
from palm_jax.evenly_spaced import evenly_spaced

BLOCK = 4096  # tokens per record
RECORDS = 4096  # records per file: 32 MiB of two-byte ids
_OFFSETS, _MANIFEST = 'offsets.npy', 'manifest.json'

Example: TypeAlias = tuple[np.ndarray, int]  # token ids with EOS, number of UTF-8 bytes of the text


class TokenCache:
    """A split of a task as one stream of tokens.

    Args:
      directory: folder that `build` wrote.

    Attributes:
      num_tokens: T, length of the stream.
      num_bytes: number of UTF-8 bytes of its text.
    """

    def __init__(self, directory: Path):
        manifest = _read_manifest(directory)
        files = [(directory / part['file'], part['size']) for part in manifest['files']]
        for file, size in files:
            if not file.is_file() or file.stat().st_size != size:
                raise UserError(_damage_message(directory))
        self.num_tokens, self.num_bytes, self._block = (manifest[name] for name in ('tokens', 'num_bytes', 'block'))
        self._sha256 = [part['sha256'] for part in manifest['files']]
        self._directory, self._dtype = directory, np.dtype(manifest['dtype'])
        with self._integrity_errors():
            self._records = grain.sources.ArrayRecordDataSource([str(file) for file, _ in files])

    def identity(self) -> dict[str, Any]:
        """Return the number of tokens, and a SHA-256 that differs if any of them does."""
        return {'tokens': self.num_tokens, 'sha256': hashlib.sha256(''.join(self._sha256).encode()).hexdigest()}

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return tokens start to stop of the stream, int32.

        Raises:
          UserError: if a record fails the checksum of ArrayRecord.
        """
        first, last = start // self._block, -(-stop // self._block)
        with self._integrity_errors():
            blocks = [np.frombuffer(self._records[i], self._dtype) for i in range(first, last)]
        tokens = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        return tokens[start - first * self._block : stop - first * self._block].astype(np.int32)

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """int64 [documents + 1]: start of every document, and the end of the last."""
        try:
            offsets = np.load(self._directory / _OFFSETS, mmap_mode='r')
            ascends = bool((offsets[1:] >= offsets[:-1]).all()) and offsets[0] == 0
            is_whole = ascends and offsets.ndim == 1 and offsets[-1] == self.num_tokens
        except (OSError, ValueError, EOFError, IndexError, SyntaxError, TypeError):  # the header is a Python literal
            is_whole = False
        if not is_whole:
            raise UserError(f'{_damage_message(self._directory)} ({_OFFSETS})')
        return offsets

    def beginnings(self, count: int, length: int = BLOCK) -> Iterator[np.ndarray]:
        """Yield at most `length` first tokens of at most `count` documents, spread evenly."""
        for i in evenly_spaced(len(self.offsets) - 1, count):
            yield self.read(int(self.offsets[i]), int(min(self.offsets[i] + length, self.offsets[i + 1])))

    def documents(self) -> Iterator[np.ndarray]:
        """Yield the tokens of each document."""
        for start, stop in itertools.pairwise(self.offsets):
            yield self.read(int(start), int(stop))

    @contextlib.contextmanager
    def _integrity_errors(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            raise UserError(f'{_damage_message(self._directory)} ({error})') from None


def build(examples: Callable[[int], Iterable[Example]], directory: Path, vocabulary_size: int, label: str) -> None:
    """Write tokens to `directory`, completely or not at all; an interrupted build is resumed.

    Args:
      examples: function that returns the examples from number n on, always the same.
      directory: folder of the cache.
      vocabulary_size: upper bound of the ids (exclusive).
      label: name for the progress bar and messages.

    Raises:
      UserError: if there are no examples.
    """
    unfinished = directory.with_name(directory.name + '.unfinished')
    unfinished.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(np.uint16 if vocabulary_size <= 1 << 16 else np.uint32)
    parts = _parts_of(unfinished)
    done, rest = _resume_from(parts, dtype)
    with tqdm(unit=' tokens', unit_scale=True, desc=label, initial=done['tokens']) as progress:
        following = iter(examples(done['documents']))
        for number in itertools.count(len(parts)):
            part, rest = _write_file(unfinished / f'tokens-{number:05}.array_record', following, rest, dtype, progress)
            if part is None:
                break
            parts.append(part)
    if not parts:
        shutil.rmtree(unfinished)
        raise UserError(f'{label}: no examples. Check the task and its files.')
    offsets = [np.load(_offsets_of(unfinished / part['file'])) for part in parts]
    np.save(unfinished / _OFFSETS, np.cumsum(np.concatenate([[0], *offsets]), dtype=np.int64))
    totals = {name: sum(part[name] for part in parts) for name in ('tokens', 'documents', 'num_bytes')}
    manifest = {'dtype': dtype.name, 'block': BLOCK} | totals | {'files': parts}
    sealed = manifest | {'seal': _digest(manifest)}
    (unfinished / _MANIFEST).write_text(json.dumps(sealed, indent=2), encoding='utf-8')
    for part in parts:
        for file in (_offsets_of(unfinished / part['file']), _summary_of(unfinished / part['file'])):
            file.unlink()
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)


def exists(directory: Path) -> bool:
    """Return whether a complete cache exists."""
    return (directory / _MANIFEST).is_file()


def lock_of(directory: Path) -> Path:
    """Return the lock of the process that writes a cache; see `locks.wait_for`."""
    return directory.with_name(f'{directory.name}.lock')


def verify(directory: Path) -> int:
    """Compare the checksums of all files of a complete cache; return the number of files.

    Raises:
      UserError: if a file has changed.
    """
    files = _read_manifest(directory)['files']
    for part in tqdm(files, desc=f'checking {directory.name}', unit=' files', leave=False):
        if not (directory / part['file']).is_file() or _sha256(directory / part['file']) != part['sha256']:
            raise UserError(f'{_damage_message(directory)} ({part["file"]})')
    return len(files)


def _write_file(
    path: Path, examples: Iterator[Example], rest: np.ndarray, dtype: np.dtype, progress: tqdm
) -> tuple[dict[str, Any] | None, np.ndarray]:
    """Write one file and its summary; return the summary, and the tokens that did not fill a record.

    A document ends in the file that it begins in, except for the tokens of its last record, which begin the next file.
    """
    unfinished = path.with_suffix('.unfinished')
    writer, records, lengths, num_bytes = ArrayRecordWriter(str(unfinished), 'group_size:1'), 0, [], 0
    buffered, num_buffered = [rest], len(rest)
    for ids, size in examples:
        buffered.append(ids.astype(dtype))
        num_buffered += len(ids)
        lengths.append(len(ids))
        num_bytes += size
        progress.update(len(ids))
        if num_buffered >= BLOCK:
            tokens = np.concatenate(buffered)
            whole = len(tokens) // BLOCK
            for block in tokens[: whole * BLOCK].reshape(whole, BLOCK):
                writer.write(block.tobytes())
            records += whole
            buffered, num_buffered = [tokens[whole * BLOCK :]], len(tokens) - whole * BLOCK
            if records >= RECORDS:
                break
    else:  # no example follows: the last file ends with a shorter record
        if num_buffered:
            writer.write(np.concatenate(buffered).tobytes())
            records, buffered = records + 1, [np.zeros(0, dtype)]
    writer.close()
    if not records:
        unfinished.unlink()
        return None, rest
    unfinished.rename(path)
    rest = np.concatenate(buffered)
    np.save(_offsets_of(path), np.array(lengths, np.int64))
    part = {
        'file': path.name,
        'size': path.stat().st_size,
        'sha256': _sha256(path),
        'records': records,
        'documents': len(lengths),
        'tokens': sum(lengths),
        'num_bytes': num_bytes,
    }
    _summary_of(path).write_text(json.dumps(part | {'rest': rest.tolist()}), encoding='utf-8')
    return part, rest


def _parts_of(directory: Path) -> list[dict[str, Any]]:
    """Return the summaries of the complete files of an interrupted build."""
    parts: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, ValueError):  # no further file, or one that a kill has left half written
        while True:
            path = directory / f'tokens-{len(parts):05}.array_record'
            part = json.loads(_summary_of(path).read_text(encoding='utf-8'))
            if path.stat().st_size != part['size'] or not _offsets_of(path).is_file():
                break
            parts.append(part)
    return parts


def _read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a complete cache.

    Raises:
      UserError: it is damaged.
    """
    try:
        manifest = json.loads((directory / _MANIFEST).read_text(encoding='utf-8'))
        seal = manifest.pop('seal', None)  # caches of earlier versions have none
        is_whole = seal == _digest(manifest) if seal else {'tokens', 'num_bytes', 'block', 'files'} <= manifest.keys()
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise UserError(f'{_damage_message(directory)} ({_MANIFEST})')
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _resume_from(parts: list[dict[str, Any]], dtype: np.dtype) -> tuple[dict[str, int], np.ndarray]:
    done = {name: sum(part[name] for part in parts) for name in ('documents', 'tokens')}
    rest = np.array([part.pop('rest') for part in parts][-1] if parts else [], dtype)
    return done, rest


def _summary_of(path: Path) -> Path:
    return path.with_suffix('.json')


def _offsets_of(path: Path) -> Path:
    return path.with_suffix('.npy')


def _sha256(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _damage_message(directory: Path) -> str:
    return f'The token cache {directory} is damaged. Delete this folder; the next run rebuilds it.'
