"""Labelled texts, with texts without labels beside every row of a batch."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import numpy as np

from palm_jax.bounds import AtLeast, Seed, checked
from palm_jax.data.readers import columns, tables
from palm_jax.data.readers.bad_rows import shared_bad_rows
from palm_jax.data.readers.row import Row
from palm_jax.data.readers.splits import text_key
from palm_jax.data.supervised.examples import Batch, Examples, warn_truncated
from palm_jax.data.supervised.labelled_example import Example
from palm_jax.data.supervised.labelled_text import LabelledText
from palm_jax.data.supervised.length_groups import to_length
from palm_jax.data.supervised.one_class import check_one_class
from palm_jax.errors import UserError
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)

_FEATURES = {'tokens': 'decoder_input_tokens', 'segment_ids': 'decoder_segment_ids'}  # of a view, by its name


class Augmenter(Protocol):
    """Changes an example, see `data.augmentation.augmented.Augmenter`."""

    def prepared(self, examples: Sequence[Any]) -> Augmenter: ...

    def augment(self, example: Any, copy: int, rng: np.random.Generator) -> Any: ...


@checked
class WithUnlabelled:
    """The batches of labelled texts, each row with further texts without labels; implements `interfaces.Data`.

    Batches have `ratio` (μ) texts beside every labelled one, in the features `unlabelled_tokens` and
    `unlabelled_segment_ids`, int32 [B, μ, L]; with augmenters also `unlabelled_strong_tokens` and
    `unlabelled_strong_segment_ids`, the same texts changed; and `unlabelled_labels`, int32 [B, μ]: where the table has
    the column of the labels their classes, which training must not use, else −1. Like the labelled ones, they are
    functions of the seed and of the number of the row. Where labelled texts are grouped by length, the others are, too,
    and L is the length of the longest text of the batch, labelled or not. The held-out part has none, and texts of it
    are left out of the unlabelled ones. Everything else is that of the labelled data.

    Args:
      data: labelled data.
      files: path or glob of the texts, see `tables.read`, in the columns that the labelled table has.
      ratio: number μ of texts beside every labelled one.
      augmenters: make the strong view of a text, one after the other; none leaves it out.
      seed: seed for shuffling and augmenting.

    Raises:
      UserError: the labels are not one class per text.
    """

    def __init__(
        self,
        data: LabelledText,
        files: str | None,
        ratio: Annotated[int, AtLeast(1)] = 3,
        augmenters: Sequence[Augmenter] = (),
        seed: Seed = 0,
    ):
        check_one_class('UNLABELLED_FILES', getattr(data, 'table', None))
        self._data, self._files, self._ratio, self._seed = data, files, ratio, seed
        self._augmenters = tuple(augmenters)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        return getattr(self._data, name)

    def batch(self, first: int, size: int) -> Batch:
        """Return the labelled examples first, first + 1, ..., and the texts beside them."""
        numbers = range(first * self._ratio, (first + size) * self._ratio)
        beside = self._beside.batch(numbers.start, len(numbers))
        rows = beside.pop('rows')
        views = {'unlabelled': beside}
        if self._augmenters:
            texts = [self._change(self._texts[row], number) for row, number in zip(rows, numbers, strict=True)]
            views['unlabelled_strong'], _ = self._inputs(texts)
        labelled = self._data.batch(first, size)
        length = max(self._beside.padded_length(features) for features in (labelled, *views.values()))
        batch = labelled | {'unlabelled_labels': self._labels[rows].reshape(size, -1)}
        for name, features in views.items():
            batch |= self._named(name, to_length(features, self._data.text_axes(features), length))
        return batch

    def blank(self) -> Batch:
        """Return an example, for the names, shapes and types of the features."""
        blank = self._data.blank()
        row = {of: np.stack([blank[of]] * self._ratio) for of in _FEATURES.values()}
        for view in ('unlabelled', 'unlabelled_strong') if self._augmenters else ('unlabelled',):
            blank |= {name: values[0] for name, values in self._named(view, row).items()}
        return blank | {'unlabelled_labels': np.zeros(self._ratio, np.int32)}

    def describe(self) -> str:
        """Return both parts in numbers, and the number of texts without labels."""
        known = np.count_nonzero(self._labels >= 0)
        quality = f'; the labels of {known:,} are known, and measure the pseudo-labels' if known else ''
        texts = f'{counted(self._beside.count, "text")}, {self._ratio} beside each row{quality}'
        return f'{self._data.describe()}\nunlabelled {texts}'

    def identity(self) -> dict[str, dict[str, Any]]:
        """Return the identity of the labelled data, with that of the other texts in the training part's."""
        found = self._data.identity()
        digest = hashlib.sha256(found['train']['sha256'].encode())
        for example in self._texts:
            digest.update(repr(example.texts).encode())
        return found | {'train': found['train'] | {'sha256': digest.hexdigest()}}

    @functools.cached_property
    def _beside(self) -> Examples:
        """The texts in an endless order, with the numbers of their `rows`."""
        features, num_truncated = self._inputs(self._texts)
        warn_truncated(num_truncated, len(self._texts), 'texts without labels', self._data.length)
        return self._data.beside(features | {'rows': np.arange(len(self._texts))}, self._ratio, self._seed)

    def _inputs(self, examples: Sequence[Example]) -> tuple[Batch, int]:
        """Return features [E, L] of texts, and how many are truncated."""
        found, num_truncated = self._data.inputs([(example.text, example.second_text) for example in examples])
        return {of: found[of] for of in _FEATURES.values()}, num_truncated

    def _named(self, view: str, features: Batch) -> Batch:
        """Return features [B · μ, L] as those of a view, [B, μ, L]."""
        return {
            f'{view}_{to}': features[of].reshape(-1, self._ratio, features[of].shape[1]) for to, of in _FEATURES.items()
        }

    def _change(self, example: Example, number: int) -> Example:
        """Change a text by all augmenters; what becomes of it depends on the seed and the number of the draw."""
        for place, augmenter in enumerate(self._prepared):
            rng = np.random.default_rng((self._seed, place, number))
            example = augmenter.augment(example, number, rng)
        return example

    @functools.cached_property
    def _prepared(self) -> list[Augmenter]:
        return [augmenter.prepared(self._texts) for augmenter in self._augmenters]

    @functools.cached_property
    def _texts(self) -> list[Example]:
        held_out = {text_key(example.texts) for example in self._data.examples('validation')}
        texts = [example for example in self._read() if text_key(example.texts) not in held_out]
        if not texts:
            raise UserError(f'UNLABELLED_FILES = {self._files!r}: the file has no texts besides held-out ones.')
        self._warn_of_labelled(texts)
        return texts

    def _warn_of_labelled(self, texts: Sequence[Example]) -> None:
        labelled = {text_key(example.texts) for example in self._data.examples('train')}
        if known := sum(text_key(example.texts) in labelled for example in texts):
            _LOGGER.warning(
                f'{known:,} of {counted(len(texts), "text")} of UNLABELLED_FILES are also in TRAIN_FILES: their labels '
                'are known, and the method learns little from them.'
            )

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        """Class of every text, int32 [E], −1 where it is not known."""
        ids: Mapping[str, int] = {name: i for i, name in enumerate(self._data.labels)}
        return np.array([ids.get(str(example.label), -1) for example in self._texts], np.int32)

    def _read(self) -> list[Example]:
        if self._files is None:
            raise UserError(
                'UNLABELLED_FILES is not set: name the file with texts without labels, --gin.UNLABELLED_FILES=...'
            )
        table = self._data.table
        rows = tables.read(self._files, table.text_columns, 'UNLABELLED_FILES', table.layout, table.bad_rows)

        def parse(row: Row) -> Example:
            label = columns.as_text(row.values.get(table.label_column, ''))
            return Example.of(table.texts(row), label, row.location)

        bad = shared_bad_rows(table.bad_rows)
        texts = list(bad.keep(rows, parse))
        bad.report()
        if not texts:
            raise UserError(f'UNLABELLED_FILES = {self._files!r}: the file has no texts{bad.why_none_is_left()}.')
        dropped = len(texts) - len({text_key(text.texts) for text in texts})
        if dropped:
            _LOGGER.info(f'{counted(dropped, "text")} of UNLABELLED_FILES repeat others')
        return texts
