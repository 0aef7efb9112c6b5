"""Checks of a text, the same for files, requests and callers of the Python API."""

from __future__ import annotations

import re

from palm_jax.errors import UserError

_BAD = re.compile('[\0\ud800-\udfff]')


def check_characters(text: str, location: str) -> str:
    r"""Return `text` if it can be written as UTF-8 and has no NUL.

    JSON allows both as escapes, so that a file which is valid UTF-8 may hold texts that are not: `\u0000`, and half of
    a surrogate pair such as `\ud83d`, which remains where an emoji was cut in two.

    Args:
      text: any text, after escapes have been decoded.
      location: file and line, or the field of a request, for the message.

    Raises:
      UserError: if there is such a character.
    """
    bad = _BAD.search(text)
    if bad is None:
        return text
    if bad[0] == '\0':
        raise UserError(f'{location}: character {bad.start() + 1} is a NUL, so this is not text. Remove it.')
    raise UserError(
        f'{location}: character {bad.start() + 1} is \\u{ord(bad[0]):04x}, half of a surrogate pair without its other '
        'half, so this is not text. Remove it; it may be an emoji that was cut in two.'
    )


def check_not_empty(text: str, location: str) -> str:
    """Return `text` if there is more in it than white space.

    Args:
      text: any text.
      location: which one it is, for the message: `Input 3`.

    Raises:
      UserError: if it is empty or white space alone.
    """
    if not text.strip():
        raise UserError(f'{location} is empty, so there is nothing to predict. Leave it out.')
    return text
