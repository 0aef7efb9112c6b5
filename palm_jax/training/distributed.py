"""Several processes that train together: found out from the launcher, joined before anything else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping

import jax
from jax.experimental import multihost_utils

from palm_jax.errors import UserError

HEARTBEAT_SECONDS = 30  # a process that was silent for so long is taken for dead, and ends the others


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the processes of a launcher, if one started several: Slurm, mpirun, a TPU pod, a Kubernetes JobSet,
    or whoever sets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Only the first process writes to the terminal from then on; errors of all are seen.

    Raises:
      UserError: the variables are no numbers, or the others do not come.
    """
    if not _were_started_together(environment):
        return
    given = {}
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
        raise UserError(f'The processes do not find each other: {error}') from None
    if not is_first():
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115 - as long as the process
        os.environ['TQDM_DISABLE'] = '1'  # tqdm reads it when it is imported, which is later
    print(f'processes  {jax.process_count()}, with {jax.local_device_count()} of {jax.device_count()} devices each')


def are_several() -> bool:
    """Whether this process is one of many."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes files and to the terminal."""
    return not are_several() or jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Until every process is here."""
    if are_several():
        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def first_alone(what: str) -> Iterator[None]:
    """What is inside is done by the first process while the others wait, and then by them: files are made once."""
    if not is_first():
        wait_for_all(what)
    yield
    if is_first():
        wait_for_all(what)


def _were_started_together(environment: Mapping[str, str]) -> bool:
    """Whether a launcher says so; a batch script of Slurm without srun is one process."""
    in_slurm_step = 'SLURM_STEP_ID' in environment and 'SLURM_PROCID' in environment
    counts = [
        environment.get('JAX_NUM_PROCESSES'),
        environment.get('OMPI_COMM_WORLD_SIZE'),
        environment.get('SLURM_NTASKS') if in_slurm_step else None,
    ]
    hosts = environment.get('TPU_WORKER_HOSTNAMES', '').split(',')
    return any(count and count.isdigit() and int(count) > 1 for count in counts) or (
        'JAX_COORDINATOR_ADDRESS' in environment or len(hosts) > 1 or 'MEGASCALE_COORDINATOR_ADDRESS' in environment
    )
