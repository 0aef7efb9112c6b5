"""Packing of several examples into one row."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Group examples so that the lengths of a group add up to at most `capacity`: best fit, longest first.

    Args:
      lengths: lengths of the examples, each at most `capacity`.
      capacity: length of a row.

    Returns:
      Indices of the examples of every row, each once, in ascending order; rows in the order of their first example.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (remaining capacity, index of the row), sorted
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        position = bisect.bisect_left(room, (lengths[number], -1))
        if position == len(room):
            rows.append([number])
            remaining, row = capacity - lengths[number], len(rows) - 1
        else:
            remaining, row = room.pop(position)
            rows[row].append(number)
            remaining -= lengths[number]
        bisect.insort(room, (remaining, row))
    return sorted(sorted(row) for row in rows)
