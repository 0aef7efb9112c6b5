"""The exception that the command line reports as a message without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error in user input; the message says what is wrong, where, what exists and what to type instead."""


def closest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean X?` for the closest of `known`, or an empty string."""
    lowered = {k.lower(): k for k in known}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f' Did you mean {lowered[matches[0]]}?' if matches else ''
