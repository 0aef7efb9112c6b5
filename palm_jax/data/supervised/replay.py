"""Rows of earlier tasks among those of a new one."""

from __future__ import annotations

import dataclasses
import fractions
import functools
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from palm_jax.bounds import Rate, Seed, checked
from palm_jax.data.readers.files import glob_below, is_folder, matches
from palm_jax.data.readers.splits import Split, count_shared
from palm_jax.data.supervised.examples import Batch, Examples
from palm_jax.data.supervised.in_memory import InMemoryData
from palm_jax.errors import UserError
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)
_LARGEST_DENOMINATOR = 10_000


@dataclasses.dataclass(frozen=True)
class _Text:
    """Sequences of earlier text, as `Examples` are rows of earlier tables.

    Attributes:
      data: the text; a `LanguageModelData`.
    """

    data: Any

    @property
    def count(self) -> int:
        return self.data.num_sequences

    def batch(self, first: int, size: int) -> Batch:
        return self.data.batch(first, size)

    def sha256(self) -> str:
        return self.data.identity()['train']['sha256']


@checked
class WithReplay:
    """The batches of a task, with rows of earlier tasks among them; implements `interfaces.Data`.

    Of the rows 0 to n − 1 of the endless order, ⌊n·rate⌋ are earlier ones, spread evenly: a batch of 32 with a rate of
    1/8 has four, and the rows of the new task keep their order. Which rows they are is a function of the seed and of
    the number of the row. Earlier tables are read as the new one is; of each, the part that a run on it holds out by
    hash is left out. The held-out part and everything else is that of the new task. Earlier rows that are among the new
    ones, or held out, are reported.

    Args:
      data: data of the new task.
      files: path or glob of the earlier tables, or a list of such, in the form of TRAIN_FILES. Rows of several are
        drawn as often as there are of them.
      rate: share of the earlier rows in all rows, rounded to a fraction with a denominator of at most 10,000; 0 is
        training without them.
      predicted: whether the tables are what `palm-jax infer` has written with the earlier model: the targets are then
        its predictions.
      seed: seed for shuffling.

    Attributes:
      is_innermost: whether no other wrapper may be between it and the data of the task.
    """

    is_innermost = True

    def __init__(
        self,
        data: Any,
        files: str | Sequence[str] | None,
        rate: Rate = 0.1,
        predicted: bool = False,
        seed: Seed = 0,
    ):
        self._rate = fractions.Fraction(rate).limit_denominator(_LARGEST_DENOMINATOR)
        if self._rate and not isinstance(data, InMemoryData) and not hasattr(type(data), 'of_names'):
            raise UserError(
                f'REPLAY_FILES: the earlier rows are put among those of the task itself, and {type(data).__name__} is '
                'around it: bind replay.WithReplay.data to %DATA. Rules and replay do not work together.'
            )
        # Earlier rows lie between the new ones, so that none are grouped by length.
        is_table = self._rate and isinstance(data, InMemoryData)
        self._data = data.ungrouped() if is_table else data
        self._files, self._predicted, self._seed = files, predicted, seed

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        return getattr(self._data, name)

    def batch(self, first: int, size: int) -> Batch:
        """Return the rows first, first + 1, ..., of which a share is from the earlier tasks."""
        if not self._rate:
            return self._data.batch(first, size)
        before = [number * self._rate.numerator // self._rate.denominator for number in range(first, first + size + 1)]
        is_earlier = np.diff(before) > 0
        count = int(is_earlier.sum())
        parts = [(~is_earlier, self._data, first - before[0]), (is_earlier, self._earlier, before[0])]
        batch: Batch = {}
        for places, data, number in parts:
            if not places.any():
                continue
            for name, values in data.batch(number, count if data is self._earlier else size - count).items():
                batch.setdefault(name, np.zeros((size, *values.shape[1:]), values.dtype))[places] = values
        return batch

    def describe(self) -> str:
        """Return both parts of the new task in numbers, and the number of earlier rows."""
        if not self._rate or not self._data.is_ready:  # a vocabulary that is yet to be fitted counts no tokens
            return self._data.describe()
        rows = counted(self._earlier.count, 'row')
        return f'{self._data.describe()}\nreplay     {rows} of earlier tasks, {float(self._rate):.1%} of what is read'

    def identity(self) -> dict[str, dict[str, Any]]:
        """Return the identity of the new task's data, with that of the earlier rows in the training part's."""
        found = self._data.identity()
        if not self._rate:
            return found
        text = f'{found["train"]["sha256"]} {self._rate} {self._earlier.sha256()}'
        return found | {'train': found['train'] | {'sha256': hashlib.sha256(text.encode()).hexdigest()}}

    @functools.cached_property
    def _earlier(self) -> Examples | _Text:
        """The rows of the earlier tasks with the features of the new one's; those that they lack are 0."""
        if self._files is None or not self._files:
            raise UserError(
                'REPLAY_FILES is not set: name the tables of the earlier tasks, --gin.REPLAY_FILES="[\'first.csv\']".'
            )
        files = [self._files] if isinstance(self._files, str) else self._files
        try:
            return self._of_tables(files) if isinstance(self._data, InMemoryData) else self._of_text(files)
        except UserError as error:
            text = re.sub('TRAIN_FILES|MIXTURE_OR_TASK_NAME', 'REPLAY_FILES', str(error))
            raise UserError(text if text.startswith('REPLAY_FILES') else f'REPLAY_FILES: {text}') from None

    def _of_text(self, files: Sequence[str]) -> _Text:
        if self._predicted:
            raise UserError('REPLAY_PREDICTED is for tables with targets. For text, write the samples to a file.')
        earlier = _Text(self._data.of_names(files))
        earlier.batch(0, 1)  # refuses too little text
        if shared := sorted(_paths(files) & _paths(self._data.train_files)):
            _LOGGER.warning(
                f'REPLAY_FILES: {shared[0]} is trained on as new text, too, so that replay only repeats it. Name the '
                'earlier text alone.'
            )
        return earlier

    def _of_tables(self, files: Sequence[str]) -> Examples:
        sources = [self._data.of_files(name, self._predicted) for name in files]
        for source in sources:
            _check_labels(source)
        self._warn_of_shared(sources)
        parts = [source.encode('train') for source in sources]
        blank = self._data.blank()
        counts = [len(next(iter(part.values()))) for part in parts]
        filled = [
            {n: part.get(n, np.zeros((count, *x.shape), x.dtype)) for n, x in blank.items()}
            for part, count in zip(parts, counts, strict=True)
        ]
        return Examples({name: np.concatenate([part[name] for part in filled]) for name in blank}, self._seed)

    def _warn_of_shared(self, earlier: Sequence[InMemoryData]) -> None:
        """Log how many earlier rows are also among the new ones, or among those that are held out."""
        texts = [text for source in earlier for text in _texts(source, 'train')]
        rows = counted(len(texts), 'row')
        if shared := count_shared(_texts(self._data, 'train'), texts):
            _LOGGER.warning(
                f'REPLAY_FILES: {shared:,} of {rows} are trained on as rows of the new task, too: replay only repeats '
                'them. Name the tables of the earlier tasks alone.'
            )
        if shared := count_shared(_texts(self._data, 'validation'), texts):
            _LOGGER.warning(
                f'REPLAY_FILES: {shared:,} of {rows} are also in the held-out part: results on them do not show how '
                'the model does on new text.'
            )


def _texts(data: InMemoryData, split: Split) -> list[str]:
    return ['\n'.join(data.texts(example)) for example in data.examples(split)]


def _paths(names: Sequence[str]) -> set[str]:
    """Return the files that names stand for; other names stand for themselves."""
    found: set[str] = set()
    for name in names:
        files = [file.name for file in glob_below(name)] if is_folder(name) else matches(name)
        found.update(map(os.path.realpath, files) if files else [name])
    return found


def _check_labels(data: InMemoryData) -> None:
    """Refuse labels that the head of the new task lacks."""
    if not data.labels or data.labels_along_text:
        return
    found = {name for example in data.examples('train') for name in data.classes(example)}
    if missing := sorted(found - set(data.labels)):
        every = [*data.labels, *missing]
        raise UserError(
            f'the earlier tasks have {counted(len(missing), "label")} that the new one lacks, e.g. {missing[0]!r}. The '
            f'head must have those of all tasks: --gin.LABELS="{every[:8]}{" ..." if len(every) > 8 else ""}"'
        )
