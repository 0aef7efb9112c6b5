"""Cache keys of registered tasks; they change when the text of the task changes."""

from __future__ import annotations

import sys

import babel

from palm_jax.data.registry import stdlib


def task_cache_key(name: str) -> str:
    """Return a key that changes when the text of a task may have changed; empty for public datasets.

    The text of the standard library depends on the interpreter, that of CLDR on Babel's version, and that of a user's
    task on the code that makes it.
    """
    family = name.partition('_')[0]
    if name == 'python_stdlib' or family == 'stdlib':
        return stdlib.cache_key()
    if family == 'cldr':
        return f'babel{babel.__version__}'
    if 'seqio' not in sys.modules:
        return ''  # no module of the user has registered a task, so TensorFlow need not be loaded
    from palm_jax.data.registry import tasks

    return tasks.cache_key(name)


def cache_name(*parts: str) -> str:
    """Join the parts that are not empty to a file name."""
    return '_'.join(filter(None, parts))
