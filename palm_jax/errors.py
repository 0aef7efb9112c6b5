"""The exception that the command line reports as a message without a traceback."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """An error in user input; the message says what is wrong, where, what exists and what to type instead."""


@contextlib.contextmanager
def located(location: str) -> Iterator[None]:
    """Put `location: ` before the message of a UserError that is raised inside."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{location}: {error}') from None


def closest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean X?` for the closest of `known`, or an empty string."""
    lowered = {k.lower(): k for k in known}
    matches = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f' Did you mean {lowered[matches[0]]}?' if matches else ''
