"""Words and phrases as they are found in texts: whole, of any case and width."""

from __future__ import annotations

import re
import unicodedata

_WITHOUT_BLANKS = ('CJK', 'HIRAGANA', 'KATAKANA', 'THAI', 'LAO', 'KHMER', 'MYANMAR', 'TIBETAN')


def pattern_of(word: str) -> str:
    """Return the pattern of a whole word or phrase; in scripts that are written without blanks, of its characters.

    It matches texts that are `folded`.
    """
    parts = folded(word).split()
    before, after = (r'\b' if _has_ends(edge) else '' for edge in (parts[0][0], parts[-1][-1]))
    return before + r'\s+'.join(map(re.escape, parts)) + after


def folded(text: str) -> str:
    """Return a text as words are compared: without case, width and kinds of apostrophes."""
    return unicodedata.normalize('NFKC', text).casefold().replace('’', "'")


def _has_ends(edge: str) -> bool:
    """Return whether words that begin or end with a character are set apart from others by blanks."""
    return edge.isalnum() and not unicodedata.name(edge, '').startswith(_WITHOUT_BLANKS)
