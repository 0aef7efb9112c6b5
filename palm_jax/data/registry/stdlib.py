"""A corpus that is on every machine that has Python: the standard library's source text."""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from palm_jax.data.readers.splits import is_held_out

# Tests are not on every machine; the rest is other people's or generated.
_SKIPPED = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', '__pycache__', 'pydoc_data', 'lib2to3'}
_HELD_OUT_SHARE = 20  # one file in twenty, chosen by the hash of its name


@functools.cache
def files(split: str) -> tuple[Path, ...]:
    """The modules of a split, `train` or `validation`, in a fixed order."""
    root = Path(sysconfig.get_path('stdlib'))
    found = (path.relative_to(root) for path in root.rglob('*.py'))
    kept = sorted(path.as_posix() for path in found if not _SKIPPED & set(path.parts))
    return tuple(root / path for path in kept if is_held_out(path, _HELD_OUT_SHARE) == (split == 'validation'))


def examples(split: str) -> Iterator[dict[str, str]]:
    """{'text': a module's whole source, 'name': its path below the library}; other encodings are skipped."""
    root = Path(sysconfig.get_path('stdlib'))
    for path in files(split):
        try:
            text = path.read_bytes().decode('utf-8')
        except UnicodeDecodeError:
            continue
        if text.strip():
            yield {'text': text, 'name': path.relative_to(root).as_posix()}


def cache_key() -> str:
    """Changes when the text does: the interpreter and every file's name and size."""
    listing = [(path.name, path.stat().st_size) for split in ('train', 'validation') for path in files(split)]
    return hashlib.sha256(repr((sys.version, listing)).encode()).hexdigest()[:12]
