"""Sources of examples: files in two splits, most of them tables. A kind of data adds how a row becomes an example."""

from __future__ import annotations

import abc
import collections
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

from palm_jax.bounds import Count
from palm_jax.data.readers import tables
from palm_jax.data.readers.bad_rows import bad_rows_of
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.row import Row
from palm_jax.data.readers.splits import Split, choose_held_out, text_key
from palm_jax.errors import UserError

Example = TypeVar('Example')


class Source(Protocol):
    """A source of examples: files, or what adds to them, such as `AugmentedSource`.

    Attributes:
      validation_files: files of the validation split; None holds out some of the others.
    """

    @property
    def validation_files(self) -> str | None: ...

    @property
    def layout(self) -> Layout:
        """Layout of the files, for further files of the same kind."""

    def examples(self, split: Split) -> Sequence[Any]:
        """Return the examples of a split."""


@dataclasses.dataclass(frozen=True)
class ExampleFiles(abc.ABC, Generic[Example]):
    """Files of examples in two splits; without files of its own, the validation split is held out by hash.

    A subclass implements `read` and `keys`, and `classes` where examples have some.

    Attributes:
      train_files: path or glob, see `tables.read`.
      validation_files: path or glob of the validation split; None holds out one example in `held_out`, see
        `choose_held_out`.
      held_out: see `validation_files`.
      bad_rows: file that collects unusable rows, see `BadRows`; None makes the first of them an error.
      encoding: encoding of files that are not UTF-8, as Python names it (`cp1250`); None: all are UTF-8.
      noun: what examples are called in messages, in the plural.
    """

    train_files: str | None
    validation_files: str | None = None
    _: dataclasses.KW_ONLY
    held_out: Count = 10
    bad_rows: str | None = None
    encoding: str | None = None

    noun = 'rows'

    @property
    def layout(self) -> Layout:
        """Layout of the files, for further files of the same kind."""
        return Layout.of(None, None, self.encoding)

    @abc.abstractmethod
    def read(self, pattern: str, binding: str) -> Sequence[Example]:
        """Return the examples of a path or glob.

        Args:
          pattern: path or glob.
          binding: macro that holds the pattern, for messages.

        Raises:
          UserError: if an example is unusable, or there are none.
        """

    @abc.abstractmethod
    def keys(self, example: Example) -> Sequence[str]:
        """Return the texts that identify an example, from those that related ones share to that of the example alone.

        Examples with equal keys stay in one split, see `choose_held_out`.
        """

    def classes(self, example: Example) -> Collection[str]:
        """Return the classes, tags or labels of an example, none of which is held out completely."""
        del example
        return ()

    def examples(self, split: Split) -> list[Example]:
        """Return the examples of a split.

        Raises:
          UserError: if TRAIN_FILES is missing, or has too few examples to hold any out.
        """
        if self.train_files is None:
            raise UserError(f'TRAIN_FILES is not set: name the file with your {self.noun}, --gin.TRAIN_FILES=...')
        if self.validation_files is not None:
            if split == 'train':
                return list(self.read(self.train_files, 'TRAIN_FILES'))
            return list(self.read(self.validation_files, 'VALIDATION_FILES'))
        found = self.read(self.train_files, 'TRAIN_FILES')
        classes = [self.classes(example) for example in found]
        chosen = choose_held_out([self.keys(example) for example in found], classes, self.held_out)
        if not any(chosen):
            different = len({text_key(self.keys(example)) for example in found})
            only = f', {different} different' if different < len(found) else ''
            why = _why_none_is_held_out(classes)
            raise UserError(
                f'TRAIN_FILES = {self.train_files!r} has {len(found)} {self.noun}{only}, {why}. '
                'Name a validation file: --gin.VALIDATION_FILES=...'
            )
        is_wanted = split == 'validation'
        return [example for example, is_held_out in zip(found, chosen, strict=True) if is_held_out == is_wanted]

    def further(self, files: str, binding: str) -> list[Example]:
        """Return the examples of further files as those of the validation split, every one usable.

        Args:
          files: path or glob.
          binding: flag that names the files, for messages.

        Raises:
          UserError: an example is unusable, or has a label that the source does not have.
        """
        return list(self.read(files, binding))

    def reading(self, files: str, labels: Sequence[str] = (), predicted: bool = False) -> Self:
        """Return the same source of other training files, without a validation file; see `InMemoryData.of_files`.

        Args:
          files: path or glob.
          labels: class names, for sources that have some.
          predicted: whether the targets are those that `palm-jax infer` has predicted.

        Raises:
          UserError: `palm-jax infer` does not predict what the examples are.
        """
        del labels
        if predicted:
            raise UserError('only labels of texts, and texts, can be those that palm-jax infer has predicted.')
        return dataclasses.replace(self, train_files=files, validation_files=None)


def _why_none_is_held_out(classes: Sequence[Collection[str]]) -> str:
    counts = collections.Counter(name for of_one in classes for name in set(of_one))
    if len(classes) > 1 and all(any(counts[name] == 1 for name in of_one) for of_one in classes):
        return 'each with a class that no other has, so that none can be held out for validation'
    return 'too few to hold some out for validation'


@dataclasses.dataclass(frozen=True)
class Table(ExampleFiles[Example]):
    """Tables of which every usable row is an example.

    A subclass implements `parse` and `keys`, and names the columns in `wanted`.

    Attributes:
      columns: names of the columns of a file without a header, see `Layout`.
      quoting: whether cells may be enclosed in quotation marks; None is True for `.csv` and False for `.tsv`, `.txt`.
    """

    _: dataclasses.KW_ONLY
    columns: tuple[str, ...] | list[str] | None = None
    quoting: bool | None = None

    @property
    def layout(self) -> Layout:
        """Layout of the files."""
        return Layout.of(self.columns, self.quoting, self.encoding)

    @property
    def wanted(self) -> tuple[tuple[str, str], ...]:
        """(macro, name) of the columns that every row must have."""
        return ()

    @abc.abstractmethod
    def parse(self, row: Row) -> Example:
        """Return a row as an example.

        Raises:
          UserError: if the row is unusable; the message begins with its location.
        """

    def read(self, pattern: str, binding: str) -> list[Example]:
        """Return the examples of a path or glob; see `ExampleFiles.read`."""
        rows = tables.read(pattern, self.wanted, binding, self.layout, self.bad_rows)
        bad = bad_rows_of(binding, self.bad_rows)
        examples = list(bad.keep(rows, self.parse))
        bad.report()
        if not examples:
            raise UserError(f'{binding} = {pattern!r}: the file contains no rows{bad.why_none_is_left()}.')
        return examples
