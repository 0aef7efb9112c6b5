"""A user's own text: files, folders, globs and URLs, read one document at a time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

from palm_jax.data.readers import files, tables
from palm_jax.data.readers.bad_rows import shared_bad_rows
from palm_jax.data.readers.files import File
from palm_jax.data.readers.splits import is_held_out
from palm_jax.errors import UserError

_HELD_OUT_ONE_IN = 20
_TEXT_SUFFIXES = ('.txt', '.md', '.rst', '.py', '.tex')
_TABLE_SUFFIXES = tuple(suffix for suffix in tables.SUFFIXES if suffix != '.txt')


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """UTF-8 text for language modelling, plain or compressed (`.gz`, `.zst`, `.bz2`, `.xz`).

    A text file is a document; of a table (`.csv`, `.tsv`, `.jsonl`, `.json`, `.parquet`) every row is one.

    Attributes:
      train: a file, a glob, a URL, or a folder: its text files, at any depth; where it has none, its tables.
      validation: the same for the held-out part; None holds out every twentieth document by the
        hash of its text, or of a single document its last twentieth, cut at a line's end.
      text_column: of tables.
      bad_rows: file for rows of tables, and names of files, that cannot be used, see `BadRows`; None: the first of
        them is an error.
      binding: names `train` in messages.
    """

    train: str
    validation: str | None = None
    text_column: str = 'text'
    bad_rows: str | None = None
    binding: str = 'TRAIN_FILES'

    def examples(self, split: str) -> Iterator[dict[str, str]]:
        """{'text': a document, 'name': where it stands}."""
        if self.validation is not None:
            source = (self.train, self.binding) if split == 'train' else (self.validation, 'VALIDATION_FILES')
            yield from self._documents(*source)
            return
        summary, wants_held_out = self._summary, split == 'validation'
        for number, document in enumerate(self._documents(self.train, self.binding), 1):
            if summary.documents == 1:
                yield _part_of_only(document, wants_held_out)
            else:
                held_out = (
                    is_held_out(document['text'], _HELD_OUT_ONE_IN)
                    if summary.held_out
                    else (number == summary.documents)
                )
                if held_out == wants_held_out:
                    yield document

    def cache_key(self) -> str:
        """Changes when a text does."""
        return self._summary.cache_key

    @functools.cached_property
    def _summary(self) -> _Summary:
        """What one pass over everything tells."""
        digest, documents, held_out, first = hashlib.sha256(), 0, 0, None
        for split in ('train',) if self.validation is None else ('train', 'validation'):
            source = (self.train, self.binding) if split == 'train' else (self.validation, 'VALIDATION_FILES')
            for document in self._documents(*source):
                text = document['text'].encode()
                digest.update(f'{split}{len(text)}'.encode())
                digest.update(text)
                documents, first = documents + 1, first or document
                held_out += is_held_out(document['text'], _HELD_OUT_ONE_IN)
        if documents == 1 and self.validation is None:
            _part_of_only(first, held_out=True)  # an error that is better told now than from inside TensorFlow
        return _Summary(digest.hexdigest()[:12], documents, held_out)

    def _documents(self, pattern: str, binding: str) -> Iterator[dict[str, str]]:
        found, any_text, bad = _find(pattern, binding), False, shared_bad_rows(self.bad_rows)
        for file in found:
            if file.suffix in _TABLE_SUFFIXES:
                for document in bad.keep(tables.rows(file, binding, bad=bad), self._of_row):
                    any_text = True
                    yield document
            else:
                for text in filter(str.strip, bad.keep([file], File.text)):
                    any_text = True
                    yield {'text': text, 'name': file.name}
        bad.report()
        if not any_text:
            raise UserError(f'{binding} = {pattern!r}: {len(found)} file(s) match, and all are empty.')

    def _of_row(self, row: tables.Row) -> dict[str, str]:
        return {'text': tables.require(row, self.text_column, 'TEXT_COLUMN'), 'name': row.location}


def is_text_or_table(name: str) -> bool:
    """Whether a name ends as one of the files that are read here."""
    return File(name).suffix in (*_TEXT_SUFFIXES, *_TABLE_SUFFIXES)


@dataclasses.dataclass(frozen=True)
class _Summary:
    cache_key: str
    documents: int
    held_out: int


def _find(pattern: str, binding: str) -> list[File]:
    if not files.is_folder(pattern):
        return files.glob_files(pattern, binding)
    everything = files.glob_below(pattern)
    for suffixes in (_TEXT_SUFFIXES, _TABLE_SUFFIXES):
        if found := [file for file in everything if file.suffix in suffixes]:
            return found
    known = ', '.join((*_TEXT_SUFFIXES, *_TABLE_SUFFIXES))
    raise UserError(f'{binding} = {pattern!r}: no {known} file below this folder.')


def _part_of_only(document: dict[str, str], held_out: bool) -> dict[str, str]:
    text = document['text']
    cut = text.rfind('\n', 0, len(text) - len(text) // _HELD_OUT_ONE_IN) + 1
    if not 0 < cut < len(text):
        raise UserError(f'{document["name"]} is too short to hold a part out. Name one with --gin.VALIDATION_FILES=...')
    return document | {'text': text[cut:] if held_out else text[:cut]}
