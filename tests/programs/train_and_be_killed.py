"""Trains in a child of this process, kills it at random moments, and begins again; prints the number of kills.

    python -m tests.programs.train_and_be_killed KILLS SEED MODEL_DIR ARGUMENTS_OF_TRAIN ...

The modules are imported once, and every child is a fork, so that a start takes a moment. After the last kill, one more
child trains to the end.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from palm_jax.api import training  # noqa: F401 - imported before the forks; it starts no backend of JAX
from palm_jax.cli import command_line, train
from palm_jax.run_directory import RunDirectory
from palm_jax.training import integrity

os.environ['GLIBC_TUNABLES'] = ''  # else every child would begin with another Python


def started(arguments, log):
    pid = os.fork()
    if pid == 0:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1), os.dup2(output, 2)
        sys.argv = [train.__file__, *arguments]
        try:
            command_line.run(train.main)
        except SystemExit as ended:
            sys.stdout.flush()
            os._exit(ended.code or 0)
        finally:
            os._exit(70)
    return pid


def has_ended(pid):
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def count_lines(run):
    return run.metrics.read_bytes().count(b'\n') if run.metrics.exists() else 0


def wait(pid, run, dice):
    """Wait until a random moment: of the whole process, or, mostly, of the steps and saves. False if it ended."""
    before, deadline = count_lines(run), time.monotonic() + 120
    if dice.random() < 0.3:
        deadline = time.monotonic() + 3 * dice.random()
    while time.monotonic() < deadline and count_lines(run) <= before:
        if has_ended(pid):
            return False
        time.sleep(0.002)
    end = time.monotonic() + 0.1 * dice.random()
    while time.monotonic() < end:
        if has_ended(pid):
            return False
        time.sleep(0.001)
    return True


def main(kills, seed, model_dir, *arguments):
    run, dice, log, newest = RunDirectory(Path(model_dir)), random.Random(int(seed)), f'{model_dir}.log', 0
    done = 0
    while done < int(kills):
        pid = started(arguments, log)
        if not wait(pid, run, dice):
            break
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        done += 1
        steps = run.steps()
        assert not steps or steps[-1] >= newest, f'step {newest} is lost: {steps}'
        for step in steps[-1:]:
            found = integrity.problem(run.checkpoint(step))
            assert found is None, found
            newest = step
    print(done)
    _, status = os.waitpid(started(arguments, log), 0)
    if status:
        print(Path(log).read_text()[-5000:], file=sys.stderr)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == '__main__':
    main(*sys.argv[1:])
