"""The log on the terminal: what the package logs, as plain text, without the noise of the libraries below it."""

from __future__ import annotations

import contextlib
import logging
import sys


def show_logs() -> None:
    """Print the package's log as plain text, warnings on stderr and the rest on stdout, and hide known noise.

    A program that has configured the `palm_jax` logger itself keeps its own handlers.

    Orbax logs errors of its threads with their stacks although it raises them again where a save is awaited, and
    asyncio reports writes that TensorStore abandoned after a failure.
    """
    package = logging.getLogger('palm_jax')
    if package.handlers:
        return
    package.setLevel(logging.INFO)
    package.propagate = False
    package.handlers = [_Terminal()]
    with contextlib.suppress(ImportError):
        import absl.logging  # noqa: F401 - absl replaces the class of its logger, which must exist before the filter
    logging.getLogger('absl').addFilter(_is_not_an_error_of_orbax)
    logging.getLogger('asyncio').addFilter(_is_not_about_tensorstore)


class _Terminal(logging.Handler):
    """Prints records to wherever stdout and stderr point at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout, flush=True)


def _is_not_an_error_of_orbax(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or '/orbax/' not in record.pathname


def _is_not_about_tensorstore(record: logging.LogRecord) -> bool:
    return 'OCDBT' not in record.getMessage()
