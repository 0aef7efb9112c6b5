"""Files to read: paths and globs here, `gs://`, `s3://` and other URLs by fsspec, plain or compressed."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import io
import itertools
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import fsspec

from palm_jax.errors import UserError

COMPRESSED = ('.gz', '.zst', '.bz2', '.xz')
LONGEST_LINE = 1 << 26  # bytes
_BOM = b'\xef\xbb\xbf'
_NOT_UTF8 = re.compile('[\udc80-\udcff]')  # as `surrogateescape` lets bytes through
_UTF16 = ('\udcff\udcfe', '\udcfe\udcff')
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
        """(number, text with its newline) of every line, one at a time; a byte order mark is left out.

        What is no text is let through for `checked` to find, so that one bad line is no bad file.
        """
        for number, line in self._lines():
            yield number, _let_through(line)

    def text(self) -> str:
        """All of it.

        Raises:
          UserError: it is no text; with the line.
        """
        lines = [line for _, line in self._lines()]
        with contextlib.suppress(UnicodeDecodeError):
            text = b''.join(lines).decode('utf-8')
            if '\0' not in text and max(map(len, lines), default=0) <= LONGEST_LINE:
                return text
        for number, line in enumerate(lines, 1):  # which of them it is
            checked(_let_through(line), f'{self.name}, line {number}')
        raise AssertionError('a file that is no text has a line that is none')

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines, of those that are too long only as much as shows it."""
        with self.open() as file:
            for number in itertools.count(1):
                line = file.readline(LONGEST_LINE + 1)
                if not line:
                    return
                rest = line
                while len(rest) > LONGEST_LINE and not rest.endswith(b'\n'):
                    rest = file.readline(LONGEST_LINE + 1)
                yield number, line.removeprefix(_BOM) if number == 1 else line


def _let_through(line: bytes) -> str:
    """As text, with what is no UTF-8 as surrogates."""
    return line.decode('utf-8', errors='surrogateescape')


def checked(text: str, location: str) -> str:
    """A line, or what was made of lines, if it is text.

    Args:
      text: as `File.lines` gave it.
      place: names the file and the line in messages.

    Raises:
      UserError: it is too long, no UTF-8, or has a NUL byte.
    """
    if len(text) > LONGEST_LINE:
        raise UserError(
            f'{location}: longer than {LONGEST_LINE >> 20} MiB without a line break. This is not text, or its '
            'lines were joined: break it into lines, e.g. fold -s -w 10000'
        )
    bad = _NOT_UTF8.search(text)
    if bad:
        before = text[: bad.start()].count('\n')
        where = f'{location}, {before} line(s) below' if before else location
        name = location.partition(', ')[0]
        if text.startswith(_UTF16):
            raise UserError(f'{where}: this is UTF-16, not UTF-8. Convert the file: iconv -f utf-16 -t utf-8 {name}')
        raise UserError(
            f'{where}: byte 0x{ord(bad[0]) & 0xFF:02x} is not UTF-8. '
            f'Convert the file, e.g. iconv -f latin1 -t utf-8 {name}'
        )
    if '\0' in text:
        raise UserError(f'{location}: a NUL byte; this is no text.')
    return text


def glob_files(pattern: str, binding: str) -> list[File]:
    """The files that a path, a glob or a URL names, in order.

    Args:
      pattern: `texts/*.jsonl.gz`, `gs://bucket/part-*.parquet`, ...
      binding: names the pattern in messages.

    Raises:
      UserError: there are none.
    """
    if '://' in pattern:
        return _find_remote(pattern, binding)
    path = Path(pattern).expanduser()
    names = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)  # a name may have brackets
    found = [File(name) for name in sorted(names) if Path(name).is_file()]
    if not found:
        if is_folder(pattern):
            raise UserError(f'{binding} = {pattern!r} is a folder; name its files: {Path(pattern) / "*.csv"}')
        raise UserError(f'{binding} = {pattern!r}: no such file, and as a glob it matches none (from {Path.cwd()}).')
    return found


def glob_below(folder: str) -> list[File]:
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
