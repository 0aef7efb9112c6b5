"""Input files: local paths and globs; `gs://`, `s3://` and other URLs through fsspec; plain or compressed."""

from __future__ import annotations

import codecs
import collections
import contextlib
import dataclasses
import functools
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

from palm_jax.data.readers import encodings
from palm_jax.errors import UserError, did_you_mean, spelled_alike

COMPRESSED = ('.gz', '.zst', '.bz2', '.xz')
LONGEST_LINE = 1 << 26  # bytes
_BOM = b'\xef\xbb\xbf'
_NOT_UTF8 = re.compile('[\udc80-\udcff]')  # undecodable bytes, as `surrogateescape` represents them
_MOST_NAMES = 10_000  # names of a folder that are compared with a wrong one
_MOST_ENDINGS = 3  # of the files of a folder that a message shows
_BLANK = 1 << 16  # bytes of white space after which a file is not examined further
_EXAMINED = 1 << 24  # bytes of a file whose encoding is unknown
_DRIVERS = {'gs': 'gcsfs', 'gcs': 'gcsfs', 's3': 's3fs', 'hf': 'huggingface_hub', 'abfs': 'adlfs'}
_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)


@dataclasses.dataclass(frozen=True)
class File:
    """A file of text: UTF-8, or in an encoding that the user has named.

    Attributes:
      name: path or URL, as messages show it.
      encoding: encoding of a file that is not UTF-8, as Python names it, see ENCODING in gin/heads/tables.gin; None if
        the user could have named one, but has not.
    """

    name: str
    encoding: str | None = 'utf-8'

    @property
    def suffix(self) -> str:
        """Suffix of the uncompressed file, in small letters: `.csv` for `table.CSV.gz`."""
        path = PurePosixPath(self.name)
        return (path.with_suffix('') if path.suffix in COMPRESSED else path).suffix.lower()

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the uncompressed bytes.

        Raises:
          UserError: if the file cannot be read, or is truncated or corrupt.
        """
        try:
            with fsspec.open(self.name, 'rb', compression='infer') as file:
                yield file if hasattr(file, '__next__') and file.seekable() else io.BufferedReader(file)
        except _DAMAGED as error:
            if _is_zstd_error(error) or not isinstance(error, OSError) or PurePosixPath(self.name).suffix in COMPRESSED:
                raise UserError(f'{self.name}: truncated or corrupt compressed file ({error}).') from None
            raise UserError(f'{self.name} cannot be read: {error.strerror or error}.') from None
        except Exception as error:  # zstandard has its own class of error, and may not be installed
            if not _is_zstd_error(error):
                raise
            raise UserError(f'{self.name}: truncated or corrupt compressed file ({error}).') from None

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (number, text with its newline) of every line, without a byte order mark.

        Invalid text is passed on for `check_text` to report, so that a bad line does not make the whole file unusable.
        """
        if self.other_encoding is not None:
            yield from self._decoded_lines(self.other_encoding)
            return
        for number, line in self._lines():
            yield number, _decode(line)

    def text(self) -> str:
        """Return the whole text.

        Raises:
          UserError: if it is not text; the message names the line.
        """
        if self.other_encoding is not None:
            return ''.join(check_text(text, f'{self.name}, line {number}', self) for number, text in self.lines())
        lines = [line for _, line in self._lines()]
        with contextlib.suppress(UnicodeDecodeError):
            text = b''.join(lines).decode('utf-8')
            if '\0' not in text and max(map(len, lines), default=0) <= LONGEST_LINE:
                return text
        for number, line in enumerate(lines, 1):  # find the line
            check_text(_decode(line), f'{self.name}, line {number}', self)
        raise AssertionError('a file that is not text has an invalid line')

    @functools.cached_property
    def other_encoding(self) -> str | None:
        """The encoding that the user has named, if the file is in it; a file that is UTF-8 is read as that."""
        encoding = self.encoding
        if encoding is None or encoding == 'utf-8' or encodings.is_utf8(self.beginning(), encoding):
            return None
        return encoding

    def beginning(self) -> bytes:
        """Return the uncompressed bytes, of a large file the first 16 MiB, to find out what it is."""
        path = Path(self.name)
        return _beginning(self, path.stat().st_mtime_ns if path.is_file() else 0)

    def _decoded_lines(self, encoding: str) -> Iterator[tuple[int, str]]:
        """Yield numbered lines of another encoding than UTF-8, with undecodable bytes as surrogates."""
        with self.open() as file, io.TextIOWrapper(file, encoding, _ESCAPE, newline='\n') as text:
            for number in itertools.count(1):
                try:
                    line = text.readline(LONGEST_LINE + 1)
                except UnicodeError as error:  # of the file as a whole, such as UTF-16 without a byte order mark
                    advice = f'ENCODING is {encoding!r}; bind the one that the file has, or leave it out for a guess.'
                    raise UserError(f'{self.name}: {error}. {advice}') from None
                if not line:
                    return
                rest = line
                while len(rest) > LONGEST_LINE and not rest.endswith('\n'):
                    rest = text.readline(LONGEST_LINE + 1)
                yield number, line.removeprefix('\ufeff') if number == 1 else line

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield numbered lines; of those that are too long, just enough to show that."""
        with self.open() as file:
            for number in itertools.count(1):
                line = file.readline(LONGEST_LINE + 1)
                if not line:
                    return
                rest = line
                while len(rest) > LONGEST_LINE and not rest.endswith(b'\n'):
                    rest = file.readline(LONGEST_LINE + 1)
                yield number, line.removeprefix(_BOM) if number == 1 else line


@functools.lru_cache(maxsize=1)
def _beginning(file: File, modified: int) -> bytes:
    del modified  # part of the key, for a file that was corrected
    with file.open() as content:
        return content.read(_EXAMINED)


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Decode bytes that are invalid in their encoding as a surrogate, as `surrogateescape` does where it can."""
    assert isinstance(error, UnicodeDecodeError)
    return chr(0xDC80 | error.object[error.start] & 0x7F), error.end


_ESCAPE = 'palm_jax_escape'
codecs.register_error(_ESCAPE, _escape)


def _decode(line: bytes) -> str:
    """Decode UTF-8, with undecodable bytes as surrogates."""
    return line.decode('utf-8', errors='surrogateescape')


def check_text(text: str, location: str, file: File) -> str:
    """Return `text`, a line or a part of one, if it is valid text.

    Args:
      text: text from `File.lines`.
      location: file and line, for messages.
      file: the file, whose encoding is examined if the text is not UTF-8.

    Raises:
      UserError: if it is too long, not in the encoding of the file, or has a NUL byte.
    """
    if len(text) > LONGEST_LINE:
        advice = 'This is not text, or its lines were joined; break it into lines, e.g. fold -s -w 10000'
        if file.suffix == '.json':
            advice = "Write an object per line: jq -c '.[]' list.json > rows.jsonl"
        raise UserError(f'{location}: longer than {LONGEST_LINE >> 20} MiB without a line break. {advice}')
    bad = _NOT_UTF8.search(text)
    if bad:
        before = text[: bad.start()].count('\n')
        where = f'{location}, {before} line(s) further down' if before else location
        if file.other_encoding is not None:
            what = f'not in the encoding {file.other_encoding}, which ENCODING names'
            raise UserError(f'{where}: character {_position(text, bad)} is {what}. {encodings.DAMAGED_HERE}')
        line = text.split('\n')[before].encode('utf-8', errors='surrogateescape')
        content = file.beginning()
        advice = encodings.advise(file.name, content, line, can_name=file.encoding is None)
        if encodings.wide_encoding(content) is not None:
            raise UserError(f'{where}: {advice}')
        raise UserError(f'{where}: byte 0x{ord(bad[0]) & 0xFF:02x} is not UTF-8. {advice}')
    if '\0' in text:
        if encodings.wide_encoding(file.beginning()) is not None:
            advice = encodings.advise(file.name, file.beginning(), b'', can_name=file.encoding is None)
            raise UserError(f'{location}: {advice}')
        raise UserError(f'{location}: contains a NUL byte, so it is not text.')
    return text


def glob_files(pattern: str, binding: str, encoding: str | None = 'utf-8') -> list[File]:
    """Return the files that a path, a glob or a URL names, in sorted order.

    Args:
      pattern: `texts/*.jsonl.gz`, `gs://bucket/part-*.parquet`, ...
      binding: macro that holds the pattern, for messages.
      encoding: encoding of those that are not UTF-8, see `File`.

    Raises:
      UserError: if there are none.
    """
    if '://' in pattern:
        return _glob_remote(pattern, binding, encoding)
    found = [File(name, encoding) for name in matches(pattern)]
    if not found:
        if is_folder(pattern):
            raise UserError(f'{binding} = {pattern!r} is a folder; {_inside(Path(pattern))}')
        raise UserError(
            f'{binding} = {pattern!r}: no such file, and no match for it as a glob (from {Path.cwd()}).{_like(pattern)}'
        )
    return found


def refuse_blank(pattern: str, binding: str) -> None:
    """Refuse files without text before a model is loaded to read them; for the arguments see `glob_files`.

    Raises:
      UserError: there are none, or none has anything but white space.
    """
    if all(map(_is_blank, glob_files(pattern, binding))):
        raise UserError(f'{binding} = {pattern!r}: the file contains no rows.')


def _is_blank(file: File) -> bool:
    with file.open() as content:
        start = content.read(_BLANK)
    return len(start) < _BLANK and not start.removeprefix(_BOM).strip()


def _inside(folder: Path) -> str:
    """Return how the files of a folder are named, by the endings that are most frequent there."""
    within = folder.expanduser()
    files = [path for path in itertools.islice(within.iterdir(), _MOST_NAMES) if path.is_file()]
    count = collections.Counter(_ending(path) for path in files if path.suffix and not path.name.startswith('.'))
    if not count:
        return 'there are no tables or texts in it; name files.'
    endings = sorted(count, key=lambda ending: (-count[ending], ending))[:_MOST_ENDINGS]
    *others, last = [str(folder / f'*{ending}') for ending in endings]
    return f'name its files: {", ".join(others)}{" or " if others else ""}{last}'


def _ending(path: Path) -> str:
    """Return the suffix of a file, of a compressed one with that of its content."""
    return ''.join(path.suffixes[-2:] if path.suffix in COMPRESSED else path.suffixes[-1:])


def matches(pattern: str) -> list[str]:
    """Return the files of this machine that a path or a glob names, in sorted order."""
    path = Path(pattern).expanduser()
    names = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)  # a name may have brackets
    return [name for name in sorted(names) if Path(name).is_file()]


def _like(pattern: str) -> str:
    """Return the file of the same folder whose name is closest to that of a wrong path, as a question."""
    path = Path(pattern).expanduser()
    if glob.has_magic(pattern) or not path.parent.is_dir():
        return ''
    names = (each.name for each in itertools.islice(path.parent.iterdir(), _MOST_NAMES) if each.is_file())
    folder = '' if path.parent == Path() else f'{path.parent}/'
    return did_you_mean([f'{folder}{found}' for found in spelled_alike(path.name, names)])


def glob_below(folder: str, encoding: str | None = 'utf-8') -> list[File]:
    """Return all files below a folder, at any depth, in sorted order; names that begin with a dot are left out."""
    paths = sorted(Path(folder).expanduser().rglob('*'))
    return [File(str(path), encoding) for path in paths if path.is_file() and not path.name.startswith('.')]


def is_folder(pattern: str) -> bool:
    """Return whether a pattern is a local folder."""
    return '://' not in pattern and Path(pattern).expanduser().is_dir()


def _position(text: str, found: re.Match[str]) -> int:
    """Return the number, from 1, that a character has in its line."""
    return found.start() - text.rfind('\n', 0, found.start())


def _glob_remote(pattern: str, binding: str, encoding: str | None) -> list[File]:
    protocol = pattern.partition('://')[0]
    try:
        system, path = fsspec.url_to_fs(pattern)
        names = sorted(system.unstrip_protocol(name) for name in system.glob(path))
    except (ImportError, ValueError) as error:
        driver = _DRIVERS.get(protocol)
        how = f'pip install {driver}' if driver else 'Supported protocols: https://filesystem-spec.readthedocs.io'
        raise UserError(f'{binding} = {pattern!r}: {protocol}:// cannot be read here ({error}). {how}') from None
    except Exception as error:  # any error of the file system: no network, no permission
        raise UserError(f'{binding} = {pattern!r}: {type(error).__name__}: {error}') from None
    if not names:
        raise UserError(f'{binding} = {pattern!r}: no files there.')
    return [File(name, encoding) for name in names]


def _is_zstd_error(error: BaseException) -> bool:
    return type(error).__name__ == 'ZstdError'
