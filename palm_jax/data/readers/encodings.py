"""What a file looks like that is not UTF-8, and how to convert it."""

from __future__ import annotations

import codecs
import shlex
from pathlib import PurePosixPath

import chardet

_SAMPLE = 1 << 18  # bytes of undecodable lines that are examined
_SHOWN = 40  # characters
_UNPACK = {'.gz': 'gzip -dc', '.zst': 'zstd -dc', '.bz2': 'bzip2 -dc', '.xz': 'xz -dc'}
_OF_ICONV = {'macroman': 'MACINTOSH'}  # names that are not chardet's
_LEAST_CONFIDENCE = 0.2
_DAMAGED = (
    'Other lines are UTF-8, so this one is damaged, or was pasted from a file in another encoding: correct it, '
    'or skip such rows with --gin.BAD_ROWS=bad.txt'
)
_GOOD_PER_BAD = 3  # one in seven characters of GBK is also UTF-8, so of another encoding some short lines are, too
_UTF16_NUL_SHARE = 0.2  # of the bytes, where most characters are ASCII
_MARKS = {  # longest first: the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: 'utf-32',
    codecs.BOM_UTF32_BE: 'utf-32',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}


def wide_encoding(content: bytes) -> str | None:
    """Return `utf-16`, `utf-16le`, `utf-16be` or `utf-32` if the content is in that encoding, else None."""
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            return name
    for name, first in (('utf-16le', 1), ('utf-16be', 0)):
        if len(content) > 1 and content[first::2].count(0) > _UTF16_NUL_SHARE * len(content):
            text = _decode(content[: len(content) // 2 * 2], name)
            if text is not None and '\0' not in text:
                return name
    return None


def advise(name: str, content: bytes, line: bytes) -> str:
    """Return what a file looks like, with a line as it reads then, and the command that converts it.

    An encoding is proposed only if all of the content is valid in it.

    Args:
      name: path or URL of the file.
      content: the file's bytes, uncompressed, or the beginning of a large file.
      line: the line that is not UTF-8.
    """
    wide = wide_encoding(content)
    if wide is not None:
        return f'this is {wide.upper()}, not UTF-8. Convert the file: {_command(name, wide)}'
    if content.endswith(line) and _decode(content, 'utf-8', cut=True) is not None:
        return 'The file ends in the middle of a character: it was cut off. Get it again, or remove its last line.'
    if _is_surrogate(line):
        return 'It begins half of a surrogate pair without its other half, of an emoji that was cut in two: remove it.'
    bad, num_bad, num_good = bytearray(), 0, 0
    for other in content.split(b'\n'):
        if other.isascii():
            continue
        if _decode(other, 'utf-8') is not None:
            num_good += 1
            continue
        num_bad += 1
        if len(bad) < _SAMPLE:
            bad += other + b'\n'
    if not bad or num_good * _GOOD_PER_BAD >= num_bad:
        return _DAMAGED
    found = chardet.detect(bytes(bad))
    encoding, confidence = found['encoding'], found['confidence'] or 0
    if encoding is None or confidence < _LEAST_CONFIDENCE or _decode(content, encoding, cut=True) is None:
        return (
            _DAMAGED
            if num_good
            else 'Its encoding is not known here: open it in the program that wrote it, and save it as UTF-8.'
        )
    return (
        f'The file looks like {encoding}, in which the line reads {_shown(line, encoding)!r}. If that is right, '
        'convert it: '
        f'{_command(name, encoding)}'
    )


def _is_surrogate(line: bytes) -> bool:
    """Return whether a line would be UTF-8 if UTF-8 had surrogates."""
    try:
        line.decode('utf-8', errors='surrogatepass')
    except UnicodeDecodeError:
        return False
    return True


def _shown(line: bytes, encoding: str) -> str:
    """Return a line, of a long one the part around what is not UTF-8."""
    try:
        position = len(line.decode())
    except UnicodeDecodeError as error:
        position = len(line[: error.start].decode(encoding, errors='replace'))
    reading = line.decode(encoding, errors='replace').strip()
    if len(reading) <= _SHOWN:
        return reading
    start = max(0, position - _SHOWN // 2)
    end = start + _SHOWN
    return ('…' if start else '') + reading[start:end].strip() + ('…' if end < len(reading) else '')


def _decode(content: bytes, encoding: str, cut: bool = False) -> str | None:
    """Return the text, or None if the content is invalid; `cut` allows an incomplete character at the end."""
    try:
        return codecs.getincrementaldecoder(encoding)('strict').decode(content, final=not cut)
    except (UnicodeError, LookupError):
        return None


def _command(name: str, encoding: str) -> str:
    path, encoding = PurePosixPath(name), _OF_ICONV.get(encoding.lower(), encoding)
    unpack = _UNPACK.get(path.suffix)
    if unpack is not None:
        path = path.with_suffix('')
    output = shlex.quote(str(path.with_suffix(f'.utf8{path.suffix}')))
    if '://' in name:
        return f'iconv -f {encoding} -t utf-8, after downloading it'
    if unpack is not None:
        return f'{unpack} {shlex.quote(name)} | iconv -f {encoding} -t utf-8 > {output}'
    return f'iconv -f {encoding} -t utf-8 {shlex.quote(name)} > {output}'
