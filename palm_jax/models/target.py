"""The platform that is computed for: the default device's, or another while a step is compiled for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar('target', default=None)


def platform() -> str:
    """`cpu`, `gpu` or `tpu`; `any` where what is traced is written to a file that others run."""
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """What is traced inside chooses its kernels for a platform that need not be here."""
    token = _TARGET.set(name)
    try:
        yield
    finally:
        _TARGET.reset(token)
