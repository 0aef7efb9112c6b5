"""Text files of the user: files, folders, globs and URLs, read one document at a time."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Iterator

from palm_jax.data.readers import columns, files, tables
from palm_jax.data.readers.bad_rows import shared_bad_rows
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.files import File
from palm_jax.data.readers.row import Row
from palm_jax.data.readers.splits import Split, is_held_out, is_in_split
from palm_jax.errors import UserError
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)
_HELD_OUT_ONE_IN = 20
_TEXT_SUFFIXES = ('.txt', '.md', '.rst', '.py', '.tex')
_TABLE_SUFFIXES = tuple(suffix for suffix in tables.SUFFIXES if suffix != '.txt')


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Text for language modelling, plain or compressed (`.gz`, `.zst`, `.bz2`, `.xz`).

    A text file is one document; in a table (`.csv`, `.tsv`, `.jsonl`, `.json`, `.parquet`) every row is one.

    Attributes:
      train: file, glob, URL or folder. Of a folder, the text files at any depth; if it has none, its tables.
      validation: the same for the validation split; None holds out every twentieth document by the hash of its text
        or, of a single document, its last twentieth, cut at the end of a line.
      text_column: column of a table that holds the text.
      bad_rows: file that collects unusable rows of tables and names of unusable files, see `BadRows`; None makes the
        first of them an error.
      binding: macro that holds `train`, for messages.
      layout: names of columns of tables without a header, quotation marks, and the encoding of files.
    """

    train: str
    validation: str | None = None
    text_column: str = 'text'
    bad_rows: str | None = None
    binding: str = 'TRAIN_FILES'
    layout: Layout = Layout()

    def examples(self, split: Split) -> Iterator[dict[str, str]]:
        """Yield {'text': a document, 'name': its location}."""
        if self.validation is not None:
            yield from self._documents(split)
            return
        summary = self._summary
        for number, document in enumerate(self._documents('train'), 1):
            if summary.documents == 1:
                yield _split_document(document, split)
            elif summary.held_out:
                if is_in_split(document['text'], _HELD_OUT_ONE_IN, split):
                    yield document
            elif (number == summary.documents) == (split == 'validation'):  # no hash holds any out: the last one is
                yield document

    def cache_key(self) -> str:
        """Return a key that changes when a text does."""
        return self._summary.cache_key

    @functools.cached_property
    def _summary(self) -> _Summary:
        """Counts and digest from one pass over all texts."""
        digest, documents, held_out, first = hashlib.sha256(), 0, 0, dict[str, str]()
        splits: tuple[Split, ...] = ('train',) if self.validation is None else ('train', 'validation')
        known, num_shared, num_validation = set[bytes](), 0, 0
        for split in splits:
            for document in self._documents(split):
                text = document['text'].encode()
                digest.update(f'{split}{len(text)}'.encode())
                digest.update(text)
                if self.validation is not None and split == 'train':
                    known.add(hashlib.sha256(text).digest())
                elif split == 'validation':
                    num_validation += 1
                    num_shared += hashlib.sha256(text).digest() in known
                documents, first = documents + 1, first or document
                held_out += is_held_out(document['text'], _HELD_OUT_ONE_IN)
        if documents == 1 and self.validation is None:
            _split_document(first, 'validation')  # raises its error now instead of inside TensorFlow
        if num_shared:
            _LOGGER.warning(
                f'{num_shared:,} of {counted(num_validation, "document")} in VALIDATION_FILES are also in '
                f'{self.binding}: the results on them do not show how the model does on new text.'
            )
        return _Summary(digest.hexdigest()[:12], documents, held_out)

    def _documents(self, split: Split) -> Iterator[dict[str, str]]:
        """Yield the documents of the files of a split; without validation files, all of them are in `train`."""
        pattern, binding = self.train, self.binding
        if split == 'validation' and self.validation is not None:
            pattern, binding = self.validation, 'VALIDATION_FILES'
        found, any_text, bad = (
            _find_files(pattern, binding, self.layout.encoding),
            False,
            shared_bad_rows(self.bad_rows),
        )
        for file in found:
            if file.suffix in _TABLE_SUFFIXES:
                for document in bad.keep(tables.rows(file, binding, self.layout, bad=bad), self._document):
                    any_text = True
                    yield document
            else:
                for text in filter(str.strip, bad.keep([file], File.text)):
                    any_text = True
                    yield {'text': text, 'name': file.name}
        bad.report()
        if not any_text:
            raise UserError(f'{binding} = {pattern!r}: {len(found)} file(s) match, but all of them are empty.')

    def _document(self, row: Row) -> dict[str, str]:
        return {'text': columns.text(row, self.text_column, 'TEXT_COLUMN'), 'name': row.location}


def is_text_or_table(name: str) -> bool:
    """Return whether a name has the suffix of a file that `TextFiles` reads."""
    return File(name).suffix in (*_TEXT_SUFFIXES, *_TABLE_SUFFIXES)


@dataclasses.dataclass(frozen=True)
class _Summary:
    cache_key: str
    documents: int
    held_out: int


def _find_files(pattern: str, binding: str, encoding: str | None) -> list[File]:
    if not files.is_folder(pattern):
        return files.glob_files(pattern, binding, encoding)
    everything = files.glob_below(pattern, encoding)
    for suffixes in (_TEXT_SUFFIXES, _TABLE_SUFFIXES):
        if found := [file for file in everything if file.suffix in suffixes]:
            return found
    known = ', '.join((*_TEXT_SUFFIXES, *_TABLE_SUFFIXES))
    raise UserError(f'{binding} = {pattern!r}: no {known} files below this folder.')


def _split_document(document: dict[str, str], split: Split) -> dict[str, str]:
    """Return a split of a single document, cut at the end of a line."""
    text = document['text']
    cut = text.rfind('\n', 0, len(text) - len(text) // _HELD_OUT_ONE_IN) + 1
    if not 0 < cut < len(text):
        raise UserError(
            f'{document["name"]} is too short to hold some of it out for validation. '
            'Name a validation file: --gin.VALIDATION_FILES=...'
        )
    return document | {'text': text[:cut] if split == 'train' else text[cut:]}
