"""Settings of malloc for runs on a CPU."""

from __future__ import annotations

import os
import sys

# Transparent huge pages, and a single heap that is never trimmed.
_TUNABLES = {'hugetlb': 1, 'mmap_max': 0, 'arena_max': 1, 'trim_threshold': sys.maxsize}


def restart_with_malloc_tunables() -> None:
    """Restart this process with a glibc heap that keeps its memory; does nothing without glibc.

    XLA allocates and frees gigabytes in every step. By default each allocation is mapped, faulted in page by
    page, and unmapped again; on a virtual machine, which reclaims free pages, that can double the time of a step
    (BENCHMARKS.md). glibc reads its settings before main, so they only apply to a new process; call this before
    any slow import. A user's `GLIBC_TUNABLES` is kept.
    """
    if sys.platform.startswith('linux') and 'GLIBC_TUNABLES' not in os.environ:
        tunables = ':'.join(f'glibc.malloc.{name}={value}' for name, value in _TUNABLES.items())
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {'GLIBC_TUNABLES': tunables})
