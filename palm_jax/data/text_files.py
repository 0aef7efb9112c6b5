"""A user's own text: files, folders and globs, one document a file."""

from __future__ import annotations

import dataclasses
import functools
import glob
import hashlib
from collections.abc import Iterator
from pathlib import Path

from palm_jax.errors import UserError

_HELD_OUT_SHARE = 20
_TEXT_SUFFIXES = ('.txt', '.md', '.rst', '.py', '.tex')


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """UTF-8 text for language modelling.

    Attributes:
      train: a file, a folder (its text files, at any depth) or a glob.
      validation: the same for the held-out part; None holds out every twentieth file by the
        hash of its text, or of a single file its last twentieth, cut at a line's end.
    """

    train: str
    validation: str | None = None

    @functools.cached_property
    def _documents(self) -> dict[str, list[tuple[str, str]]]:
        train = _read(self.train, 'TRAIN_FILES')
        if self.validation is not None:
            return {'train': train, 'validation': _read(self.validation, 'VALIDATION_FILES')}
        if len(train) == 1:
            ((name, text),) = train
            cut = text.rfind('\n', 0, len(text) - len(text) // _HELD_OUT_SHARE) + 1
            if not 0 < cut < len(text):
                raise UserError(f'{name} is too short to hold a part out. Name one with --gin.VALIDATION_FILES=...')
            return {'train': [(name, text[:cut])], 'validation': [(name, text[cut:])]}
        held_out = [document for document in train if _hash(document[1]) % _HELD_OUT_SHARE == 0] or train[-1:]
        return {'train': [d for d in train if d not in held_out], 'validation': held_out}

    def examples(self, split: str) -> Iterator[dict[str, str]]:
        """{'text': a document, 'name': its path}."""
        for name, text in self._documents[split]:
            yield {'text': text, 'name': name}

    def identity(self) -> str:
        """Changes when a text does."""
        digest = hashlib.sha256()
        for split, documents in self._documents.items():
            for _, text in documents:
                digest.update(f'{split}{len(text)}'.encode())
                digest.update(text.encode())
        return digest.hexdigest()[:12]


def _read(pattern: str, binding: str) -> list[tuple[str, str]]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.rglob('*') if p.suffix in _TEXT_SUFFIXES and p.is_file())
        expected = f'no {", ".join(_TEXT_SUFFIXES)} file below this folder'
    else:
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        expected = 'no such file, and as a glob it matches none'
    if not found:
        raise UserError(f'{binding} = {pattern!r}: {expected} (looked from {Path.cwd()}).')
    documents = [(str(p), _decode(p)) for p in found]
    documents = [(name, text) for name, text in documents if text.strip()]
    if not documents:
        raise UserError(f'{binding} = {pattern!r}: {len(found)} file(s) match, and all are empty.')
    return documents


def _decode(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b'\n') + 1
        raise UserError(
            f'{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8. '
            f'Convert the file, e.g. iconv -f latin1 -t utf-8 {path}'
        ) from error


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
