"""Memory of a CPU run."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_memory() -> bool:
    """Tells glibc to keep what XLA frees.

    XLA's temporary buffer is hundreds of megabytes, and by default it is mapped from the
    kernel, zeroed and unmapped again in every step. BENCHMARKS.md has the difference.

    Returns:
      Whether this C library took the settings; others are left as they are.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    never = 2**31 - 1
    return all([mallopt(_M_ARENA_MAX, 1), mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, never)])
