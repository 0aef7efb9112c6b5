"""Starts programs as forks of a process that has imported them; see tests.support.forks.

It reads a line of JSON from stdin and answers each with one on stdout:

    ["start", MODULE, ARGUMENTS, LOG, ENVIRONMENT]   the process id; the program writes to the file LOG
    ["ended", PID]                                   the exit code (negative: the signal), or null while it runs
"""

import importlib
import json
import os
import sys

# Imported before the forks; none of them starts a backend of JAX, which would not survive a fork.
from palm_jax.api import loading, predictions, training  # noqa: F401
from palm_jax.cli import command_line

os.environ['GLIBC_TUNABLES'] = ''  # else every child would begin with another Python


def start(module, arguments, log, environment):
    program = importlib.import_module(module)
    pid = os.fork()
    if pid == 0:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(output, 1), os.dup2(output, 2)
        os.environ.update(environment)
        sys.argv = [program.__file__, *arguments]
        try:
            command_line.run(program.main)
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(70)
    return pid


def ended(pid):
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


if __name__ == '__main__':
    for line in sys.stdin:
        name, *values = json.loads(line)
        print(json.dumps({'start': start, 'ended': ended}[name](*values)), flush=True)
