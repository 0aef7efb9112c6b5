"""Where what is made once is kept: vocabularies and tokens."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$PALM_JAX_CACHE`, else `palm_jax` in the user's cache directory."""
    if path := os.environ.get('PALM_JAX_CACHE'):
        return Path(path)
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'palm_jax'
