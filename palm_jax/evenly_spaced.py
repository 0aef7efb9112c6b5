"""Some of many examples, spread evenly over all, as they may be sorted."""

from __future__ import annotations

import numpy as np


def evenly_spaced(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, from the first to the last; all if they are not more."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist()
