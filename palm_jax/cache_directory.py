"""The cache directory: vocabularies, tokens and tables that are built once."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return `$PALM_JAX_CACHE`, else `palm_jax` in the user's cache directory."""
    if path := os.environ.get('PALM_JAX_CACHE'):
        return Path(path)
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'palm_jax'
