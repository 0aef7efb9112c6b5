"""Memory of a CPU run."""

from __future__ import annotations

import os
import sys

# Transparent huge pages, and one heap that grows but never gives back.
_TUNABLES = {'hugetlb': 1, 'mmap_max': 0, 'arena_max': 1, 'trim_threshold': sys.maxsize}


def restart_with_malloc_tunables() -> None:
    """Starts this process anew with a glibc heap that keeps its memory, where there is glibc.

    XLA allocates and frees gigabytes in every step. By default each is mapped, faulted in page
    by page, and unmapped again; on a virtual machine, which takes free pages away, that can
    double a step's time (BENCHMARKS.md). glibc reads its settings before main, so they can only
    be given to a new process; call this before anything is imported that takes time. A
    `GLIBC_TUNABLES` of the user's stays as it is.
    """
    if sys.platform.startswith('linux') and 'GLIBC_TUNABLES' not in os.environ:
        tunables = ':'.join(f'glibc.malloc.{name}={value}' for name, value in _TUNABLES.items())
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {'GLIBC_TUNABLES': tunables})
