"""What a file looks like that is not UTF-8, and how to read or convert it."""

from __future__ import annotations

import codecs
import dataclasses
import functools
import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

import chardet
from chardet.enums import EncodingEra

from palm_jax.data.readers.few_characters import FEW, plausible_encodings, unmarked_encoding
from palm_jax.errors import UserError, closest

_SAMPLE = 1 << 16  # bytes of undecodable lines that are examined
_SHOWN = 40  # characters
_UNPACK = {'.gz': 'gzip -dc', '.zst': 'zstd -dc', '.bz2': 'bzip2 -dc', '.xz': 'xz -dc'}
_OF_ICONV = {  # names that are not chardet's
    'macroman': 'MACINTOSH',
    'maclatin2': 'MAC-CENTRALEUROPE',
    'maccyrillic': 'MAC-CYRILLIC',
}
_NOT_OF_ICONV = ('macgreek', 'maciceland', 'macturkish')  # or has another table of that name
_SAVE = 'save it as UTF-8 in the program that wrote it'
_ERAS = EncodingEra.ALL & ~EncodingEra.MAINFRAME  # EBCDIC, in which any bytes are letters, is not guessed
_LEAST_CONFIDENCE = 0.2
_CERTAIN = 0.9  # confidence that chardet has in multi-byte encodings
_CLOSE = 0.7  # share of the best confidence from which another encoding is proposed, too
_MOST_PROPOSED = 3
_CONTROLS = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]')  # hardly in a text
_KNOWN = (
    *('cp1250', 'cp1251', 'cp1252', 'cp1253', 'cp1254', 'cp1255', 'cp1256', 'cp1257', 'cp1258'),
    *('iso8859-1', 'iso8859-2', 'iso8859-5', 'iso8859-7', 'iso8859-9', 'iso8859-15', 'koi8-r', 'koi8-u', 'mac-roman'),
    *('gb18030', 'big5', 'shift_jis', 'euc-jp', 'euc-kr', 'utf-16', 'utf-32'),
)
_DAMAGED = 'Other lines are UTF-8, so this one is damaged, or was pasted from a file in another encoding: correct it'
_OR_SKIP = ', or skip such rows with --gin.BAD_ROWS=bad.txt'
DAMAGED_HERE = 'Correct the line or the name, or skip such rows with --gin.BAD_ROWS=bad.txt'
_GOOD_PER_BAD = 3  # one in seven characters of GBK is also UTF-8, so of another encoding some short lines are, too
_MARKS = {  # longest first: the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: 'utf-32',
    codecs.BOM_UTF32_BE: 'utf-32',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}


def wide_encoding(content: bytes) -> str | None:
    """Return `utf-16`, `utf-32`, or those with `le` or `be`, if the content is in that encoding, else None."""
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            return name
    return unmarked_encoding(content) if b'\0' in content else None


def advise(name: str, content: bytes, line: bytes, can_name: bool = False) -> str:
    """Return what a file looks like, with a line as it reads then, and what reads or converts it.

    An encoding is proposed only if all of the content is valid in it.

    Args:
      name: path or URL of the file.
      content: the file's bytes, uncompressed, or the beginning of a large file.
      line: the line that is not UTF-8.
      can_name: whether ENCODING names the encoding of the file.
    """
    wide = wide_encoding(content)
    if wide is not None:
        named = f'Name it, --gin.ENCODING={wide}, or convert' if can_name else 'Convert'
        return f'this is {wide.upper()}, not UTF-8. {named} the file: {_command(name, wide)}'
    if content.endswith(line) and _is_cut(content):
        return 'The file ends in the middle of a character: it was cut off. Get it again, or remove its last line.'
    if _is_surrogate(line):
        return 'It begins half of a surrogate pair without its other half, of an emoji that was cut in two: remove it.'
    bad, num_good, found = _examine(content)
    damaged = _DAMAGED + (_OR_SKIP if can_name else '.')
    if not bad:
        return damaged
    if not found:
        return (
            damaged
            if num_good
            else 'Its encoding is not known here: open it in the program that wrote it, and save it as UTF-8.'
        )
    return _proposal(name, found, [line, *bad], can_name)


@functools.lru_cache(maxsize=1)  # for every bad line of a file
def _examine(content: bytes) -> tuple[tuple[bytes, ...], int, tuple[Candidate, ...]]:
    """Return lines that are not UTF-8, how many are though not ASCII, and the encodings that the file may have.

    If many lines are UTF-8, the others are damaged, and there are none.
    """
    bad, num_bad, num_good = list[bytes](), 0, 0
    for line in content.split(b'\n'):
        if line.isascii():
            continue
        if _decode(line, 'utf-8') is not None:
            num_good += 1
            continue
        num_bad += 1
        if len(bad) * len(line) < _SAMPLE:
            bad.append(line)
    if num_good * _GOOD_PER_BAD >= num_bad:
        return (), num_good, ()
    return tuple(bad), num_good, tuple(candidates(content, bad))


def check(name: str | None) -> str | None:
    """Return the name of an encoding, or None.

    Raises:
      UserError: if Python has no such encoding of text.
    """
    if name is None:
        return None
    try:
        info = codecs.lookup(name)
        'a'.encode(name)
    except (LookupError, UnicodeError, ValueError):
        raise UserError(
            f'ENCODING is {name!r}, which is not an encoding.{closest(name, _KNOWN)} Some of them: {", ".join(_KNOWN)}.'
        ) from None
    return None if info.name == 'utf-8' else name


def is_utf8(content: bytes, encoding: str) -> bool:
    """Return whether content is UTF-8 rather than in another encoding; its end may be in the middle of a character.

    Args:
      content: bytes.
      encoding: the other encoding. If it does not extend ASCII, its texts may be valid UTF-8, but have controls.
    """
    if content.isascii() and extends_ascii(encoding):
        return False  # so far it is both, but may go on in the other
    text = _decode(content, 'utf-8', cut=True)
    if text is None or (text.isascii() and not content.isascii()):  # the other encoding's letter at the very end
        return False
    return extends_ascii(encoding) or _CONTROLS.search(text) is None


def extends_ascii(encoding: str) -> bool:
    """Return whether the bytes of ASCII stand for the characters of ASCII."""
    ascii_bytes = bytes(range(0x20, 0x7F))
    return _decode(ascii_bytes + b'\x1b(J~', encoding) == ascii_bytes.decode() + '\x1b(J~'


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An encoding that a file may have.

    Attributes:
      name: name that Python knows.
      confidence: chardet's confidence, from 0 to 1.
    """

    name: str
    confidence: float


def candidates(content: bytes, lines: Sequence[bytes]) -> list[Candidate]:
    """Return the likeliest encodings of a file, at most three, the likeliest first; none if chardet knows none.

    Of a few characters, encodings in which they read most plausibly are returned, see `few_characters`.

    Bytes say little: ISO 8859-2 and Windows-1250 have the same letters for most of Polish, and every byte is a letter
    of Mac OS Roman. An encoding is a candidate if all of the content is valid in it, without control characters if any
    encoding has none, if it reads the lines differently from those before it, and if chardet has nearly as much
    confidence in it as in the first, in the frequencies of letters of the languages that it knows.

    Args:
      content: the file's bytes, uncompressed, or the beginning of a large file.
      lines: lines that are not UTF-8.
    """
    sample = b'\n'.join(lines)
    if sum(byte >= 0x80 for byte in sample) < FEW:
        likely = plausible_encodings(sample)
        return [Candidate(name, 0.0) for name in likely if _decode(content, name, cut=True) is not None][
            :_MOST_PROPOSED
        ]
    readings: dict[str, Candidate] = {}
    for guess in chardet.detect_all(sample, ignore_threshold=True, encoding_era=_ERAS):
        encoding, confidence = guess['encoding'], guess['confidence'] or 0.0
        reading = None if encoding is None else _decode(sample, encoding)
        if encoding is None or reading is None or confidence < _LEAST_CONFIDENCE:
            continue
        before = readings.get(reading)
        is_new = before is None or (encoding.startswith('WINDOWS') and before.name.startswith('ISO'))
        if is_new and _decode(content, encoding, cut=True) is not None:  # Windows has more characters than ISO 8859
            readings[reading] = Candidate(encoding, confidence if before is None else before.confidence)
    clean = {reading: found for reading, found in readings.items() if _CONTROLS.search(reading) is None} or readings
    found = list(clean.values())
    if not found or found[0].confidence >= _CERTAIN:
        return found[:1]
    return [one for one in found if one.confidence >= _CLOSE * found[0].confidence][:_MOST_PROPOSED]


def _proposal(name: str, found: Sequence[Candidate], lines: Sequence[bytes], can_name: bool) -> str:
    """Return the encodings that a file may have, with a line as it reads in each, and what to type.

    Args:
      name: path or URL of the file.
      found: encodings, the likeliest first.
      lines: lines that are not UTF-8; shown is the first that reads differently in most encodings.
      can_name: whether ENCODING names the encoding of the file.
    """
    encodings = [one.name for one in found]
    line = max(lines, key=lambda line: len(set(_readings(line, encodings))))
    (first, shown), *others = zip(encodings, _readings(line, encodings), strict=True)
    what = f'The file looks like {first}, in which {"the" if line == lines[0] else "a"} line reads {shown!r}.'
    command = _command(name, first)
    ways = [f'name it with --gin.ENCODING={first}'] * can_name
    ways += [f'convert the file: {command}'] * (command is not None)
    condition = 'If that is right'
    if others:
        what += f' It may also be {" or ".join(f"{encoding}, {reading!r}" for encoding, reading in others)}.'
        condition = 'If the first is right'
    return f'{what} {condition}, {", or ".join(ways) or _SAVE}'


def _is_cut(content: bytes) -> bool:
    """Return whether content is UTF-8 that ends in the middle of a character, and not a letter of another encoding."""
    text = _decode(content, 'utf-8', cut=True)
    if text is None:
        return False
    rest = content[len(text.encode()) :]
    return not text.isascii() or len(rest) > 1 or rest in (b'\xc2', b'\xc3')  # with which most of Latin-1 begin


def _is_surrogate(line: bytes) -> bool:
    """Return whether a line would be UTF-8 if UTF-8 had surrogates."""
    try:
        line.decode('utf-8', errors='surrogatepass')
    except UnicodeDecodeError:
        return False
    return True


def _readings(line: bytes, encodings: Sequence[str]) -> list[str]:
    """Return a line in each of the encodings; of a long one the part where they differ, or what is not UTF-8."""
    readings = [line.decode(encoding, errors='replace') for encoding in encodings]
    pairs = enumerate(zip(*readings[:2], strict=False))
    position = next((i for i, letters in pairs if len(set(letters)) > 1), None)
    if position is None:
        position = next((i for i, letter in enumerate(readings[0]) if not letter.isascii()), 0)
    return [_around(reading, position) for reading in readings]


def _around(text: str, position: int) -> str:
    """Return a text, of a long one the part around a position."""
    indent = len(text) - len(text.lstrip())
    text, position = text.strip(), max(0, position - indent)
    if len(text) <= _SHOWN:
        return text
    start = max(0, position - _SHOWN // 2)
    end = start + _SHOWN
    return ('…' if start else '') + text[start:end].strip() + ('…' if end < len(text) else '')


def _decode(content: bytes, encoding: str, cut: bool = False) -> str | None:
    """Return the text, or None if the content is invalid; `cut` allows an incomplete character at the end."""
    try:
        return codecs.getincrementaldecoder(encoding)('strict').decode(content, final=not cut)
    except (UnicodeError, LookupError):
        return None


def _command(name: str, encoding: str) -> str | None:
    """Return the command that converts a file; None if iconv does not know the encoding."""
    if encoding.lower() in _NOT_OF_ICONV:
        return None
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
