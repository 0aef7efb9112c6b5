"""The exception that the command line reports as a message without a traceback."""

import collections
import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

_MOST_OFFERED = 3  # names that share words with a wrong one


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
    """Return ` Did you mean X?` for the closest of `known`, or an empty string.

    Where none is spelled alike, up to three are offered that share words with it: LORA_RANK for PEFT_RANK.
    """
    names = tuple(known)
    return did_you_mean(spelled_alike(name, names) or _sharing_words(name, names))


def no_column(column: str, columns: Iterable[str]) -> str:
    """Return that a table lacks a column, with the closest of those that it has, and all of them."""
    names = tuple(columns)
    return f'no column {column!r}.{closest(column, names)} Columns: {", ".join(names)}.'


def did_you_mean(names: Sequence[str]) -> str:
    """Return ` Did you mean X, Y or Z?`, or an empty string for no names."""
    *others, last = names or ('',)
    return f' Did you mean {", ".join(others)}{" or " if others else ""}{last}?' if last else ''


def spelled_alike(name: str, known: Iterable[str]) -> list[str]:
    """Return the one of `known` whose spelling is closest to a name, of any case, or none."""
    lowered = {k.lower(): k for k in known}
    return [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)]


def _sharing_words(name: str, known: Iterable[str]) -> list[str]:
    """Return the names that share the rarest words with a name of several words; none if they are more than three.

    A word that n names have counts 1/n.
    """
    words, wanted = {other: _words(other) for other in known}, _words(name)
    count = collections.Counter(word for some in words.values() for word in some)
    score = {other: sum(1 / count[word] for word in wanted & some) for other, some in words.items()}
    best = max(score.values(), default=0.0)
    found = sorted(other for other, value in score.items() if value == best)
    return found if best > 0 and len(wanted) > 1 and len(found) <= _MOST_OFFERED else []


def _words(name: str) -> set[str]:
    return {word for word in re.split(r'[\W_]+', name.lower()) if len(word) > 1}
