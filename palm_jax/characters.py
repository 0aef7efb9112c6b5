"""The check for text that no vocabulary can represent, the same for files, requests and callers of the Python API."""

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
