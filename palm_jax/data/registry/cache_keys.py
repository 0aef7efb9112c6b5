"""What names a registered task's text in the cache: another text, another name."""

from __future__ import annotations

import sys

import babel

from palm_jax.data.registry import stdlib


def task_cache_key(name: str) -> str:
    """Changes when a task's text does, as far as can be known without reading it; empty for public data sets.

    The library's text is the interpreter's and CLDR's is Babel's; a task of the user's own has the code that makes it.
    """
    family = name.partition('_')[0]
    if name == 'python_stdlib' or family == 'stdlib':
        return stdlib.cache_key()
    if family == 'cldr':
        return f'babel{babel.__version__}'
    if 'seqio' not in sys.modules:
        return ''  # then no module of the user's has registered anything, and TensorFlow need not be loaded
    from palm_jax.data.registry import tasks

    return tasks.cache_key(name)


def cache_name(*parts: str) -> str:
    """A file name of those parts that are not empty."""
    return '_'.join(filter(None, parts))
