"""The one exception that the command line turns into a message without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: says what was wrong, where, what exists and what to type instead."""


def closest(name: str, known: Iterable[str]) -> str:
    """` Did you mean X?` for the nearest of `known`, or an empty string."""
    lowered = {k.lower(): k for k in known}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f' Did you mean {lowered[matches[0]]}?' if matches else ''
