"""The cache directory: vocabularies, tokens, tables and compiled programs, which are made once."""

import hashlib
import os
import platform
from pathlib import Path


def cache_dir() -> Path:
    """Return `$PALM_JAX_CACHE`, else `palm_jax` in the user's cache directory."""
    if path := os.environ.get('PALM_JAX_CACHE'):
        return Path(path)
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'palm_jax'


def keep_compiled() -> None:
    """Let JAX keep what it compiles in the cache directory, where later processes find it.

    To be called before JAX is imported. A `JAX_COMPILATION_CACHE_DIR` of the user's own is left alone; where the
    directory cannot be written, nothing is kept.
    """
    if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
        return
    directory = cache_dir() / 'compiled' / _kind_of_cpu()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(directory, os.W_OK):
        os.environ['JAX_COMPILATION_CACHE_DIR'] = str(directory)


def _kind_of_cpu() -> str:
    """Return a name for CPUs with the same instructions: code that was compiled for one may end on another."""
    try:
        with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as file:  # the same for every core: the first
            instructions = next((line for line in file if line.startswith(('flags', 'Features'))), '')
    except OSError:
        instructions = platform.processor()
    return f'{platform.machine()}-{hashlib.sha256(instructions.encode()).hexdigest()[:12]}'
