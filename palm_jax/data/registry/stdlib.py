"""A corpus available wherever Python is: the source of the standard library."""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from palm_jax.data.readers.splits import SPLITS, Split, is_in_split

# Tests are not installed everywhere; the others are third-party or generated.
_SKIPPED = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__', 'pydoc_data', 'lib2to3'}
_HELD_OUT_ONE_IN = 20  # files, by the hash of their path


@functools.cache
def files(split: Split) -> tuple[Path, ...]:
    """Return the modules of a split in a fixed order."""
    root = Path(sysconfig.get_path('stdlib'))
    found = (path.relative_to(root) for path in root.rglob('*.py'))
    kept = sorted(path.as_posix() for path in found if not _SKIPPED & set(path.parts))
    return tuple(root / path for path in kept if is_in_split(path, _HELD_OUT_ONE_IN, split))


def examples(split: Split) -> Iterator[dict[str, str]]:
    """Yield {'text': source of a module, 'name': its path in the library}, without those that are not UTF-8."""
    root = Path(sysconfig.get_path('stdlib'))
    for path in files(split):
        try:
            text = path.read_bytes().decode('utf-8')
        except UnicodeDecodeError:
            continue
        if text.strip():
            yield {'text': text, 'name': path.relative_to(root).as_posix()}


def cache_key() -> str:
    """Return a key of the interpreter and of the name and size of every file."""
    listing = [(path.name, path.stat().st_size) for split in SPLITS for path in files(split)]
    return hashlib.sha256(repr((sys.version, listing)).encode()).hexdigest()[:12]
