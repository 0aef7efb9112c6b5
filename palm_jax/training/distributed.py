"""Several processes that train together: detected from the launcher, joined before anything else."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from palm_jax import job
from palm_jax.errors import UserError

_LOGGER = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 30  # a process that is silent for longer is considered dead, and ends the others


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Join the processes of a launcher, if one started several: Slurm, mpirun, a TPU pod, a Kubernetes JobSet, or any
    that sets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    From then on only the first process writes to standard output; the errors of all are shown.

    Args:
      environment: environment variables.

    Raises:
      UserError: the variables are incomplete or not numbers, or the other processes cannot be reached.
    """
    if not _were_started_together(environment):
        return
    given: dict[str, Any] = {}
    if 'JAX_NUM_PROCESSES' in environment:
        try:
            given = {
                'coordinator_address': environment['JAX_COORDINATOR_ADDRESS'],
                'num_processes': int(environment['JAX_NUM_PROCESSES']),
                'process_id': int(environment['JAX_PROCESS_ID']),
            }
        except (KeyError, ValueError) as error:
            what = f'{error.args[0]} is not set' if isinstance(error, KeyError) else str(error)
            raise UserError(
                'JAX_NUM_PROCESSES, JAX_COORDINATOR_ADDRESS (host:port of the first process) and JAX_PROCESS_ID '
                f'(0, 1, ...) belong together: {what}.'
            ) from None
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise UserError(f'Could not connect to the other processes: {error}') from None
    if not is_first():
        job.be_silent()
    processes, local, devices = jax.process_count(), jax.local_device_count(), jax.device_count()
    _LOGGER.info('processes  %d, with %d of %d devices each', processes, local, devices)


def are_several() -> bool:
    """Whether several processes train together."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes files and to the terminal."""
    return not are_several() or jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Wait until every process has called this with the same name."""
    if are_several():
        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def first_alone(what: str) -> Iterator[None]:
    """Run the body on the first process first, then on the others, so that files are created once."""
    if not is_first():
        wait_for_all(what)
    yield
    if is_first():
        wait_for_all(what)


def _were_started_together(environment: Mapping[str, str]) -> bool:
    """Whether a launcher started several processes; a Slurm batch script without srun is one process."""
    counts = [
        environment.get('JAX_NUM_PROCESSES'),
        environment.get('OMPI_COMM_WORLD_SIZE'),
        environment.get('SLURM_NTASKS') if job.is_in_slurm_step(environment) else None,
    ]
    hosts = environment.get('TPU_WORKER_HOSTNAMES', '').split(',')
    return any(count and count.isdigit() and int(count) > 1 for count in counts) or (
        'JAX_COORDINATOR_ADDRESS' in environment or len(hosts) > 1 or 'MEGASCALE_COORDINATOR_ADDRESS' in environment
    )
