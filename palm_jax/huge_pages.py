"""Memory of a CPU run."""

from __future__ import annotations

import os
import sys

_TUNABLE = 'glibc.malloc.hugetlb=1'


def use_huge_pages() -> None:
    """Starts this process anew with glibc's transparent huge pages, where it has them.

    XLA maps hundreds of megabytes of temporary memory in every step, half a million page
    faults of 4 KiB; with pages of 2 MiB they vanish, and a step of the CPU benchmark takes a
    fifth less time (BENCHMARKS.md). glibc reads the setting before main, so it can only be
    given to a new process; call this before anything is imported that takes time. A
    `GLIBC_TUNABLES` of the user's stays as it is.
    """
    if sys.platform.startswith('linux') and 'GLIBC_TUNABLES' not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {'GLIBC_TUNABLES': _TUNABLE})
