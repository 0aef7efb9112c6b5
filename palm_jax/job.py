"""Processes that a launcher starts together on the machines of a cluster: Slurm, MPI, a Kubernetes Job.

Programs whose work divides into independent pieces (`pieces`) need no connection between them, so all that a process
asks is whether there are others, and whether it is the first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping


def process_index(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the index of this process, from 0, among those of its job; None if it was started alone.

    A Kubernetes Job with `completionMode: Indexed` does not tell its pods how many there are: even one is a job.

    Args:
      environment: environment variables.
    """
    for count, index in (
        ('JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'),
        ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'),  # Open MPI
        ('PMI_SIZE', 'PMI_RANK'),  # MPICH, Intel MPI
        *((('SLURM_NTASKS', 'SLURM_PROCID'),) if is_in_slurm_step(environment) else ()),
    ):
        found = _number(environment, index)
        if found is not None and (_number(environment, count) or 0) > 1:
            return found
    return _number(environment, 'JOB_COMPLETION_INDEX')


def is_in_slurm_step(environment: Mapping[str, str]) -> bool:
    """Return whether `srun` started this process; a batch script without it is one process of a job of many."""
    return 'SLURM_STEP_ID' in environment and 'SLURM_PROCID' in environment


def be_silent() -> None:
    """From now on write nothing to standard output, and draw no progress bars; errors are still shown."""
    sys.stdout = open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115 - until the process ends
    os.environ['TQDM_DISABLE'] = '1'  # read by tqdm when it is imported, later


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, '')
    return int(value) if value.isdecimal() else None
