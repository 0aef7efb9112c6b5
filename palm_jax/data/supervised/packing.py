"""Several examples in one row: what fits together, and what it saves."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def packed(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Groups of examples whose lengths add up to at most `capacity`: best fit, the longest first.

    Args:
      lengths: of the examples, each at most `capacity`.
      capacity: of a row.

    Returns:
      Their numbers, each once; rows in the order of their first example, as are the examples of a row.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left of a row, its number), in order
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect.bisect_left(room, (lengths[number], -1))
        if place == len(room):
            rows.append([number])
            left, row = capacity - lengths[number], len(rows) - 1
        else:
            left, row = room.pop(place)
            rows[row].append(number)
            left -= lengths[number]
        bisect.insort(room, (left, row))
    return sorted(sorted(row) for row in rows)
