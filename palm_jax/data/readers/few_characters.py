"""Which encodings a few characters may be in: too few for the frequencies of letters, so by how plausibly they read."""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata

FEW = 8  # bytes that are not ASCII, below which frequencies say nothing
_COMMON = (  # from the most common in files of today
    *('WINDOWS-1252', 'GB18030', 'WINDOWS-1251', 'SHIFT_JIS', 'EUC-KR', 'BIG5', 'WINDOWS-1250', 'WINDOWS-1253'),
    *('WINDOWS-1254', 'KOI8-R', 'WINDOWS-1255', 'WINDOWS-1256'),
)
_MARKS = frozenset('“”‘’„‚–—…•€£¥§°·«»¿¡©®™½¼¾²³×、。，？！：；「」『』（）《》')
_COMMON_LEADS = {  # first bytes of characters that are common in the encoding, of which the others are rare
    'GB18030': range(0xB0, 0xD8),
    'SHIFT_JIS': range(0x88, 0x99),
    'EUC-KR': range(0xB0, 0xC9),
    'BIG5': range(0xA4, 0xC7),
}
_NUL_SHARE = 0.2  # of the bytes, where most characters are ASCII
_CONTROLS = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]')


def plausible_encodings(line: bytes) -> list[str]:
    """Return the common encodings in which a line is text, those in which it reads most plausibly.

    Args:
      line: bytes with few that are not ASCII.
    """
    found: dict[str, tuple[int, str]] = {}
    for name in _COMMON:
        try:
            reading = line.decode(name)
        except UnicodeDecodeError:
            continue
        if _CONTROLS.search(reading) is None:
            found.setdefault(reading, (_oddities(reading, name), name))
    least = min((odd for odd, _ in found.values()), default=0)
    return [name for odd, name in found.values() if odd == least]


def unmarked_encoding(content: bytes) -> str | None:
    """Return the encoding of wide characters, `utf-16le`, ..., of content with NULs but no byte order mark, or None.

    Args:
      content: the file's bytes, or the beginning of a large file.
    """
    if content.count(0) < _NUL_SHARE * len(content) and _is_bytes_of_text(content.replace(b'\0', b'')):
        return None  # a text into which some got
    found = []
    for name in ('utf-32le', 'utf-32be', 'utf-16le', 'utf-16be'):
        try:
            text = codecs.decode(content, name)
        except UnicodeDecodeError:
            continue
        if text and _CONTROLS.search(text) is None and all(map(_is_assigned, set(text))):
            found.append((_mixture(text), name))
    return min(found)[1] if found else None


def _is_bytes_of_text(content: bytes) -> bool:
    try:
        return _CONTROLS.search(content.decode()) is None
    except UnicodeDecodeError:
        return False


def _mixture(text: str) -> float:
    """Return how mixed a text is: its blocks of 256 characters per character, ASCII not counted."""
    return len({ord(c) >> 8 for c in text if not c.isascii()}) / len(text)


def _is_assigned(character: str) -> bool:
    return unicodedata.category(character) not in ('Cn', 'Co', 'Cs')


def _oddities(text: str, encoding: str) -> int:
    """Return the number of characters that are odd where they are.

    Odd is what is neither a letter nor a common mark; a rare character of Chinese, Japanese or Korean; two letters with
    accents next to each other; letters of two scripts next to each other; a capital after a small letter, and a mark
    between two letters.
    """
    odd = sum(not c.isascii() and _is_odd(c, encoding) for c in text)
    for a, b in itertools.pairwise(text):
        if a.isalpha() and b.isalpha():
            is_accented = not a.isascii() and not b.isascii() and _script(a) == 'LATIN'
            odd += _script(a) != _script(b) or is_accented or (a.islower() and b.isupper() and not b.isascii())
    return odd + len(re.findall(r'(?<=[^\W\d_])[¿¡£¥§°²³×](?=[^\W\d_])', text))


def _is_odd(character: str, encoding: str) -> bool:
    leads, script = _COMMON_LEADS.get(encoding), _name(character)
    if script in ('HALFWIDTH', 'FULLWIDTH') and character not in _MARKS:
        return True
    if leads is not None and script in ('CJK', 'HANGUL'):
        try:
            first = character.encode('GB2312' if encoding == 'GB18030' else encoding)[0]
        except UnicodeEncodeError:
            return True
        return first not in leads
    return not (unicodedata.category(character) in ('Ll', 'Lu', 'Lo') or character in _MARKS)


def _name(letter: str) -> str:
    return unicodedata.name(letter, 'UNKNOWN').split()[0].partition('-')[0]


def _script(letter: str) -> str:
    """Return the script of a letter; Japanese texts mix theirs, which count as one."""
    return 'CJK' if _name(letter) in ('HIRAGANA', 'KATAKANA') else _name(letter)
