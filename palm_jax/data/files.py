"""Files to read: paths and globs here, `gs://`, `s3://` and other URLs by fsspec, plain or compressed."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import fsspec

from palm_jax.errors import UserError

COMPRESSED = ('.gz', '.zst', '.bz2', '.xz')
_BOM = b'\xef\xbb\xbf'
_DRIVERS = {'gs': 'gcsfs', 'gcs': 'gcsfs', 's3': 's3fs', 'hf': 'huggingface_hub', 'abfs': 'adlfs'}
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)


@dataclasses.dataclass(frozen=True)
class File:
    """One file, UTF-8.

    Attributes:
      name: its path or URL, as messages show it.
    """

    name: str

    @property
    def suffix(self) -> str:
        """That of the content: `.csv` of `table.csv.gz`."""
        path = PurePosixPath(self.name)
        return path.with_suffix('').suffix if path.suffix in COMPRESSED else path.suffix

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes, unpacked.

        Raises:
          UserError: what is there is not what its name says, or cannot be read.
        """
        try:
            with fsspec.open(self.name, 'rb', compression='infer') as file:
                yield file if hasattr(file, '__next__') and file.seekable() else io.BufferedReader(file)
        except _DAMAGED as error:
            if _is_of_zstd(error) or not isinstance(error, OSError) or PurePosixPath(self.name).suffix in COMPRESSED:
                raise UserError(f'{self.name}: this is no whole compressed file ({error}).') from None
            raise UserError(f'{self.name} cannot be read: {error.strerror or error}.') from None
        except Exception as error:  # zstandard's own, which may not be installed
            if not _is_of_zstd(error):
                raise
            raise UserError(f'{self.name}: this is no whole compressed file ({error}).') from None

    def lines(self) -> Iterator[tuple[int, str]]:
        """(number, text with its newline) of every line, one at a time; a byte order mark is left out."""
        with self.open() as file:
            for number, line in enumerate(file, 1):
                yield number, self._decoded(line.removeprefix(_BOM) if number == 1 else line, number)

    def text(self) -> str:
        """All of it."""
        with self.open() as file:
            return self._decoded(file.read().removeprefix(_BOM), 1)

    def _decoded(self, data: bytes, first_line: int) -> str:
        try:
            text = data.decode('utf-8')
        except UnicodeDecodeError as error:
            line = first_line + data[: error.start].count(b'\n')
            raise UserError(
                f'{self.name}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8. '
                f'Convert the file, e.g. iconv -f latin1 -t utf-8 {self.name}'
            ) from None
        if '\0' in text:
            line = first_line + text[: text.index('\0')].count('\n')
            raise UserError(f'{self.name}, line {line}: a NUL byte; this is no text.')
        return text


def find(pattern: str, binding: str) -> list[File]:
    """The files that a path, a glob or a URL names, in order.

    Args:
      pattern: `texts/*.jsonl.gz`, `gs://bucket/part-*.parquet`, ...
      binding: names the pattern in messages.

    Raises:
      UserError: there are none.
    """
    if '://' in pattern:
        return _find_remote(pattern, binding)
    names = glob.glob(str(Path(pattern).expanduser()), recursive=True)
    found = [File(name) for name in sorted(names) if Path(name).is_file()]
    if not found:
        raise UserError(f'{binding} = {pattern!r}: no such file, and as a glob it matches none (from {Path.cwd()}).')
    return found


def find_below(folder: str) -> list[File]:
    """All files below a folder, at any depth, in order; those that begin with a dot are left out."""
    paths = sorted(Path(folder).expanduser().rglob('*'))
    return [File(str(path)) for path in paths if path.is_file() and not path.name.startswith('.')]


def is_folder(pattern: str) -> bool:
    """Whether it is a folder of this machine."""
    return '://' not in pattern and Path(pattern).expanduser().is_dir()


def _find_remote(pattern: str, binding: str) -> list[File]:
    protocol = pattern.partition('://')[0]
    try:
        system, path = fsspec.url_to_fs(pattern)
        names = sorted(system.unstrip_protocol(name) for name in system.glob(path))
    except (ImportError, ValueError) as error:
        driver = _DRIVERS.get(protocol)
        how = f'pip install {driver}' if driver else 'Known: https://filesystem-spec.readthedocs.io'
        raise UserError(f'{binding} = {pattern!r}: {protocol}:// cannot be read here ({error}). {how}') from None
    except Exception as error:  # of whatever stands behind the URL: no network, no right to read
        raise UserError(f'{binding} = {pattern!r}: {type(error).__name__}: {error}') from None
    if not names:
        raise UserError(f'{binding} = {pattern!r}: nothing is there.')
    return [File(name) for name in names]


def _is_of_zstd(error: BaseException) -> bool:
    return type(error).__name__ == 'ZstdError'
