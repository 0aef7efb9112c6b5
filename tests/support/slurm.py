"""A Slurm cluster of two nodes on this machine, from Debian's packages `slurm-wlm munge`, as long as a test."""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time

NODES = '127.0.0.1', '127.0.0.2'  # names that every resolver knows, as the address of the first process must
PROGRAMS = 'munged', 'slurmctld', 'slurmd', 'srun', 'scancel'

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
NodeName={nodes[0]} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName={nodes[1]} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def can_run():
    return all(shutil.which(program) for program in PROGRAMS) and os.getuid() == 0


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(('127.0.0.1', 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def cluster(folder):
    """Runs the daemons; gives the environment in which `srun` reaches them."""
    for path in (folder / 'state', *(folder / 'spool' / node for node in NODES)):
        path.mkdir(parents=True)
    key = folder / 'munge.key'
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    (folder / 'cgroup.conf').write_text('CgroupPlugin=autodetect\nIgnoreSystemd=yes\n')
    (folder / 'slurm.conf').write_text(
        CONFIG.format(
            host=socket.gethostname(), user=getpass.getuser(), folder=folder, nodes=NODES, ports=_free_ports(3)
        )
    )
    environment = os.environ | {'SLURM_CONF': str(folder / 'slurm.conf')}
    places = [f'--{what}={folder}/munge.{what}' for what in ('pid-file', 'log-file', 'seed-file', 'socket')]
    commands = [
        ['munged', '--foreground', '--force', f'--key-file={key}', *places],
        ['slurmctld', '-D'],
        *(['slurmd', '-D', '-N', node] for node in NODES),
    ]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / 'daemons.log').open('w'))
        for command in commands:
            daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
            time.sleep(0.5)
        deadline = time.monotonic() + 60
        while (nodes := _states(environment)) != ['idle', 'idle']:
            if time.monotonic() > deadline:
                raise RuntimeError(f'{nodes}\n{(folder / "daemons.log").read_text()[-3000:]}')
            time.sleep(0.5)
        yield environment


def _states(environment):
    """One word a node, e.g. 'idle'."""
    told = subprocess.run(
        ['sinfo', '--noheader', '--Node', '--format=%T'], env=environment, capture_output=True, text=True, check=False
    )
    return told.stdout.split()
