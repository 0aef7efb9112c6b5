"""Runs programs one after another, as `python -m` would; see tests.support.interpreter.

It reads a line of JSON from stdin and answers each with one on stdout:

    [MODULE, ARGUMENTS]   [exit code, what the program wrote to stdout, what it wrote to stderr]
"""

import contextlib
import io
import json
import os
import runpy
import sys
import traceback

ANSWERS = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)  # what native code prints is not an answer


def run(module, arguments):
    output, errors = io.StringIO(), io.StringIO()
    sys.argv = [module, *arguments]
    folder, code = os.getcwd(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            runpy.run_module(module, run_name='__main__', alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        except Exception:
            traceback.print_exc()
            code = 1
    os.chdir(folder)
    return code, output.getvalue(), errors.getvalue()


if __name__ == '__main__':
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), file=ANSWERS, flush=True)
