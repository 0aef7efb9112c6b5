"""Starts programs as forks of a process that has imported them; see tests.support.forks.

It reads a line of JSON from stdin and answers each with one on stdout:

    ["start", MODULE, ARGUMENTS, LOG, FOLDER, ENVIRONMENT]   the process id; it works in FOLDER and writes to LOG
    ["ended", PID]                                           the exit code (negative: the signal), or null while it runs
"""

import importlib
import json
import os
import sys

# Imported before the forks; none of them starts a backend of JAX, which would not survive a fork.
from palm_jax.api import loading, predictions, training  # noqa: F401
from palm_jax.cli import command_line
from palm_jax.configuration.load import load
from palm_jax.reports import plots  # noqa: F401


def start(module, arguments, log, folder, environment):
    program = importlib.import_module(module)
    pid = os.fork()
    if pid == 0:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0), os.dup2(output, 1), os.dup2(output, 2)
        # Python's streams know whether the files of this process can be sought.
        sys.stdout, sys.stderr = os.fdopen(1, 'w', closefd=False), os.fdopen(2, 'w', 1, closefd=False)
        os.environ.update(environment)
        os.chdir(folder)
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
    load('loop.train', ['gin/pretrain_tiny.gin'], [])  # imports what it names
    for line in sys.stdin:
        name, *values = json.loads(line)
        print(json.dumps({'start': start, 'ended': ended}[name](*values)), flush=True)
