"""Token ids on disk: made once, checksummed, read at random without TensorFlow.

A split of a task is one stream of tokens, documents one after another, in ArrayRecord files of many
records of `BLOCK` tokens each. Making it goes on after the last whole file when it was interrupted.
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
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from palm_jax.errors import UserError

BLOCK = 4096  # tokens of a record
RECORDS = 4096  # of a file: 32 MiB of two-byte ids
_OFFSETS, _MANIFEST = 'offsets.npy', 'manifest.json'

Example = tuple[np.ndarray, int]  # token ids with their end mark, UTF-8 bytes of the text


class TokenCache:
    """One split of one task as one stream of tokens.

    Args:
      directory: what `build` made.

    Attributes:
      num_tokens: T, of the stream.
      num_bytes: UTF-8 bytes of the text the tokens stand for.
    """

    def __init__(self, directory: Path):
        manifest = json.loads((directory / _MANIFEST).read_text())
        files = [(directory / part['file'], part['size']) for part in manifest['files']]
        for file, size in files:
            if not file.is_file() or file.stat().st_size != size:
                raise UserError(_damaged(directory))
        self.num_tokens, self.num_bytes, self._block = (manifest[name] for name in ('tokens', 'num_bytes', 'block'))
        self._directory, self._dtype = directory, np.dtype(manifest['dtype'])
        with self._checked():
            self._records = grain.sources.ArrayRecordDataSource([str(file) for file, _ in files])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens start to stop of the stream, int32.

        Raises:
          UserError: what lies there is not what was written; ArrayRecord keeps checksums.
        """
        first, last = start // self._block, -(-stop // self._block)
        with self._checked():
            blocks = [np.frombuffer(self._records[i], self._dtype) for i in range(first, last)]
        tokens = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        return tokens[start - first * self._block : stop - first * self._block].astype(np.int32)

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """int64 [documents + 1], where each begins."""
        return np.load(self._directory / _OFFSETS, mmap_mode='r')

    def documents(self) -> Iterator[np.ndarray]:
        """The tokens of one document after another."""
        for start, stop in itertools.pairwise(self.offsets):
            yield self.read(int(start), int(stop))

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            raise UserError(f'{_damaged(self._directory)} ({error})') from None


def build(examples: Callable[[int], Iterable[Example]], directory: Path, vocabulary_size: int, label: str) -> None:
    """Writes tokens into `directory`, whole or not at all; goes on where it was interrupted.

    Args:
      examples: those from number n on, the same every time.
      directory: of the cache.
      vocabulary_size: every id is below it.
      label: for progress and messages.

    Raises:
      UserError: there is not one example.
    """
    unfinished = directory.with_name(directory.name + '.unfinished')
    unfinished.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(np.uint16 if vocabulary_size <= 1 << 16 else np.uint32)
    parts = _parts_of(unfinished)
    done, rest = _continue_from(parts, dtype)
    with tqdm(unit=' tokens', unit_scale=True, desc=label, initial=done['tokens']) as progress:
        following = iter(examples(done['documents']))
        for number in itertools.count(len(parts)):
            part, rest = _write_file(unfinished / f'tokens-{number:05}.array_record', following, rest, dtype, progress)
            if part is None:
                break
            parts.append(part)
    if not parts:
        shutil.rmtree(unfinished)
        raise UserError(f'{label}: there is not one example. Check the task and its files.')
    offsets = [np.load(_offsets_of(unfinished / part['file'])) for part in parts]
    np.save(unfinished / _OFFSETS, np.cumsum(np.concatenate([[0], *offsets]), dtype=np.int64))
    totals = {name: sum(part[name] for part in parts) for name in ('tokens', 'documents', 'num_bytes')}
    manifest = {'dtype': dtype.name, 'block': BLOCK} | totals | {'files': parts}
    (unfinished / _MANIFEST).write_text(json.dumps(manifest, indent=2))
    for part in parts:
        for made in (_offsets_of(unfinished / part['file']), _summary_of(unfinished / part['file'])):
            made.unlink()
    shutil.rmtree(directory, ignore_errors=True)
    unfinished.rename(directory)


def exists(directory: Path) -> bool:
    """Whether a finished cache is there."""
    return (directory / _MANIFEST).is_file()


def verify(directory: Path) -> int:
    """Reads all files of a finished cache and compares their checksums; gives the number of files.

    Raises:
      UserError: one of them is not what was written.
    """
    files = json.loads((directory / _MANIFEST).read_text())['files']
    for part in tqdm(files, desc=f'checking {directory.name}', unit=' files', leave=False):
        if not (directory / part['file']).is_file() or _sha256(directory / part['file']) != part['sha256']:
            raise UserError(f'{_damaged(directory)} ({part["file"]})')
    return len(files)


def _write_file(
    path: Path, examples: Iterator[Example], rest: np.ndarray, dtype: np.dtype, progress: tqdm
) -> tuple[dict[str, Any] | None, np.ndarray]:
    """One file, with what is known of it beside it; and the tokens that did not fill a record.

    Documents end in the file they begin in, but for the tokens of the last record, which begin the next file.
    """
    unfinished = path.with_suffix('.unfinished')
    writer, records, lengths, num_bytes = ArrayRecordWriter(str(unfinished), 'group_size:1'), 0, [], 0
    waiting, num_waiting = [rest], len(rest)
    for ids, size in examples:
        waiting.append(ids.astype(dtype))
        num_waiting += len(ids)
        lengths.append(len(ids))
        num_bytes += size
        progress.update(len(ids))
        if num_waiting >= BLOCK:
            tokens = np.concatenate(waiting)
            whole = len(tokens) // BLOCK
            for block in tokens[: whole * BLOCK].reshape(whole, BLOCK):
                writer.write(block.tobytes())
            records += whole
            waiting, num_waiting = [tokens[whole * BLOCK :]], len(tokens) - whole * BLOCK
            if records >= RECORDS:
                break
    else:  # no example follows: the last file ends with a shorter record
        if num_waiting:
            writer.write(np.concatenate(waiting).tobytes())
            records, waiting = records + 1, [np.zeros(0, dtype)]
    writer.close()
    if not records:
        unfinished.unlink()
        return None, rest
    unfinished.rename(path)
    rest = np.concatenate(waiting)
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
    _summary_of(path).write_text(json.dumps(part | {'rest': rest.tolist()}))
    return part, rest


def _parts_of(directory: Path) -> list[dict[str, Any]]:
    """What is known of the whole files in a cache that was interrupted."""
    parts = []
    for number in itertools.count():
        summary = _summary_of(directory / f'tokens-{number:05}.array_record')
        if not summary.is_file():
            return parts
        parts.append(json.loads(summary.read_text()))


def _continue_from(parts: list[dict[str, Any]], dtype: np.dtype) -> tuple[dict[str, int], np.ndarray]:
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


def _damaged(directory: Path) -> str:
    return f'The token cache {directory} is damaged. Delete this folder; it will be made again.'
