"""Packing of several examples into one row."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def packed(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return groups of examples whose lengths add up to at most `capacity`, by best fit decreasing.

    Args:
      lengths: length of each example, at most `capacity`.
      capacity: length of a row.

    Returns:
      Numbers of the examples of each row, each once, in order; rows are in the order of their first example.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free positions of a row, its number), in order
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        position = bisect.bisect_left(room, (lengths[number], -1))
        if position == len(room):
            rows.append([number])
            left, row = capacity - lengths[number], len(rows) - 1
        else:
            left, row = room.pop(position)
            rows[row].append(number)
            left -= lengths[number]
        bisect.insort(room, (left, row))
    return sorted(sorted(row) for row in rows)
