"""Hints about labels that may not be meant as they are read: joined by another separator, or multi-hot vectors."""

from __future__ import annotations

import collections
import functools
import logging
from collections.abc import Iterable, Sequence

_LOGGER = logging.getLogger(__name__)
_TRUTHS = {'0', '1', '0.0', '1.0', 'false', 'true'}
_MARKS = ('|', ';', ',', '/', '\t', '、', '，', '；', '·', ' ')  # the last one is in many names that are one


def warn_of_vectors(lists: Sequence[Sequence[str]], where: str) -> None:
    """Log that lists of labels seem to be vectors with a 0 or 1 for each class.

    Args:
      lists: lists of labels of a table.
      where: file and column.
    """
    lengths = {len(labels) for labels in lists}
    if len(lengths) == 1 and {name for labels in lists for name in labels} <= _TRUTHS:
        vector = next((labels for labels in lists if len(set(labels)) < len(labels)), None)
        if vector is not None:
            _warn(
                f'{where}: the lists seem to say of each class whether it holds, [{", ".join(vector)}], but are read '
                'as lists of names. Write the names of those that hold: ["news", "sport"]'
            )


def warn_of_separator(cells: Iterable[str], is_exclusive: bool, where: str) -> None:
    """Log that labels seem to be joined, with the binding that parts them; see `separator_of`.

    Args:
      cells: labels of a table as they are read.
      is_exclusive: whether a text has a single label.
      where: file and column.
    """
    distinct = set(cells)
    mark = separator_of(distinct, is_exclusive)
    if mark is None:
        return
    binding = '' if is_exclusive and mark == '|' else f'--gin.LABEL_SEPARATOR="{mark!r}"'
    flags = f'--gin_file=gin/heads/multilabel.gin {binding}' if is_exclusive else binding
    shown = min((cell for cell in distinct if mark in cell), key=lambda cell: (len(cell), cell))
    _warn(
        f'{where}: {len(distinct):,} different labels are read, but cells seem to hold several, separated by {mark!r} '
        f'({shown!r}). Then the labels are {len(_parts(distinct, mark)):,}: {flags.rstrip()}'
    )


def separator_of(cells: set[str], is_exclusive: bool) -> str | None:
    """Return the mark that seems to separate several labels in cells, or None.

    Parts of different cells are the same, and half of the cells have the mark or there are fewer parts than cells; of
    labels of which a text has one, and for blanks, which names have, only a half as many count.

    Args:
      cells: different cells.
      is_exclusive: whether a text has a single label.
    """
    found: dict[str, int] = {}
    for mark in _MARKS:
        joined = [cell for cell in cells if len(_split(cell, mark)) > 1]
        parts = _parts(cells, mark)
        if len(joined) < 2 or max(parts.values()) < 2:
            continue
        is_strict = is_exclusive or mark == ' '
        if 2 * len(parts) <= len(cells) if is_strict else 2 * len(joined) >= len(cells) or len(parts) < len(cells):
            found[mark] = len(parts)
    return min(found, key=lambda mark: found[mark]) if found else None


def _split(cell: str, mark: str) -> list[str]:
    return [part.strip() for part in cell.split(mark) if part.strip()]


def _parts(cells: Iterable[str], mark: str) -> collections.Counter[str]:
    """Return in how many cells each part is."""
    return collections.Counter(part for cell in cells for part in set(_split(cell, mark)))


@functools.cache
def _warn(message: str) -> None:
    """Log a warning, once however often a table is read."""
    _LOGGER.warning(message)
