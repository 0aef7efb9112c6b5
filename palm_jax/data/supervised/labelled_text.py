"""Labelled text as batches: a class, labels, or a number for every text or pair of texts."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from palm_jax.data.readers import tables
from palm_jax.data.readers.bad_rows import shared_bad_rows
from palm_jax.data.readers.splits import is_held_out
from palm_jax.data.supervised.examples import (
    Batch,
    check_lengths,
    class_weights,
    token_features,
    warn_truncated,
)
from palm_jax.data.supervised.in_memory import InMemoryData
from palm_jax.data.vocabulary.vocabularies import EOS_ID
from palm_jax.errors import UserError, closest

LABEL_SEPARATOR = '|'


@dataclasses.dataclass(frozen=True)
class Example:
    """A text with its label as it stands in the table."""

    text: str
    second_text: str | None
    label: str
    location: str


@dataclasses.dataclass(frozen=True)
class LabelledTable:
    """Tables with a text and a label in every row.

    Attributes:
      train_files: a path or glob, see `tables.read`.
      validation_files: the held-out part; None holds out one row in `held_out`, chosen by the
        hash of its text, so that equal texts stay together.
      text_column, label_column: names in the header.
      second_text_column: of sentence pairs.
      held_out: see `validation_files`.
      kind: what a label is: one `class`, several `labels` joined by |, or a `number`.
      bad_rows: file for rows that cannot be used, see `BadRows`; None: the first of them is an error.
      names: of the classes, in the order of the head's scores; None: those that the training
        part has, in alphabetical order.
    """

    train_files: str | None
    validation_files: str | None = None
    text_column: str = 'text'
    label_column: str = 'label'
    second_text_column: str | None = None
    held_out: int = 10
    kind: Literal['class', 'labels', 'number'] = 'class'
    names: tuple[str, ...] | list[str] | None = None
    bad_rows: str | None = None

    def examples(self, split: Literal['train', 'validation']) -> list[Example]:
        """The rows of a split."""
        if self.train_files is None:
            raise UserError('Name a table with your texts and labels: --gin.TRAIN_FILES=text_data.csv')
        if self.validation_files is not None:
            if split == 'train':
                return self._read(self.train_files, 'TRAIN_FILES')
            return self._with_known_labels(self._read(self.validation_files, 'VALIDATION_FILES'))
        rows = self._read(self.train_files, 'TRAIN_FILES')
        chosen = [row for row in rows if is_held_out(row.text, self.held_out) == (split == 'validation')]
        if not chosen:
            raise UserError(
                f'TRAIN_FILES = {self.train_files!r} has {len(rows)} rows, too few to hold a part out. '
                'Name one with --gin.VALIDATION_FILES=...'
            )
        return chosen if split == 'train' else self._with_known_labels(chosen)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The classes; none for numbers."""
        if self.kind == 'number':
            return ()
        found = self._names
        if len(found) < 2 and self.kind == 'class' and self.names is None:
            raise UserError(f'{self.train_files}: every label is {found[0]!r}; there is nothing to tell apart.')
        return found

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        if self.names is not None:
            return tuple(self.names)
        return tuple(sorted({name for e in self.examples('train') for name in self.label_names(e.label)}))

    def label_names(self, label: str) -> list[str]:
        """The classes that a row's label names."""
        return [label] if self.kind == 'class' else [name.strip() for name in label.split(LABEL_SEPARATOR)]

    def encode(self, example: Example) -> np.ndarray:
        """A label as int32 [] (class), float32 [C] (labels) or float32 [] (number)."""
        if self.kind == 'number':
            return _number(example.label, example.location)
        labels = self.labels
        ids = [self._id(name, example.location) for name in self.label_names(example.label)]
        if self.kind == 'class':
            return np.int32(ids[0])
        return np.isin(np.arange(len(labels)), ids).astype(np.float32)

    def _id(self, name: str, location: str) -> int:
        if name not in self._ids:
            raise UserError(
                f'{location}: the label {name!r} never occurs in training.{closest(name, self._ids)} '
                f'Known: {", ".join(self._names[:20])}{" ..." if len(self._names) > 20 else ""}.'
            )
        return self._ids[name]

    def _with_known_labels(self, examples: list[Example]) -> list[Example]:
        def known(example: Example) -> Example:
            for name in self.label_names(example.label) if self.kind != 'number' else ():
                self._id(name, example.location)
            return example

        bad = shared_bad_rows(self.bad_rows)
        kept = list(bad.keep(examples, known))
        bad.report()
        return kept

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._names)}

    def _read(self, pattern: str, binding: str) -> list[Example]:
        columns = (('TEXT_COLUMN', self.text_column), ('LABEL_COLUMN', self.label_column))
        if self.second_text_column is not None:
            columns += (('SECOND_TEXT_COLUMN', self.second_text_column),)
        rows, bad = tables.read(pattern, columns, binding, bad_rows=self.bad_rows), shared_bad_rows(self.bad_rows)
        examples = list(bad.keep(rows, self._example))
        bad.report()
        return examples

    def _example(self, row: tables.Row) -> Example:
        second_text = None if self.second_text_column is None else row.values[self.second_text_column]
        label = row.values[self.label_column].strip()
        if self.kind == 'number':
            _number(label, row.location)
        return Example(row.values[self.text_column], second_text, label, row.location)


def _number(label: str, location: str) -> np.float32:
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f'{location}: the label {label!r} is no number.')
    return np.float32(value)


def num_outputs(table: LabelledTable) -> int:
    """What a head needs for a table's labels: a score for every class, one for a number."""
    return len(table.labels) or 1


class LabelledText(InMemoryData):
    """A labelled table as batches: `0 text EOS`, padded, with its label.

    A pair is `0 text EOS second EOS`. What is too long is cut at the end of the text (of the
    longer text of a pair), and the number of cut texts is told.

    Args:
      table: where the texts are.
      lengths: {'inputs': L}.
      vocabulary: `bytes` or the path of a SentencePiece model: the base's.
      class_weights: `balanced` weighs a class by N / (C · its count) in training, so that all
        count alike; a mapping gives weights by name, 1 for those it lacks; None weighs none.
      sampling: `over` draws rare classes as often as the most frequent one, `under` frequent
        ones as seldom as the rarest; None takes every example once an epoch.
      bidirectional: a text's tokens see each other both ways, not only backwards.
      group_by_length: examples of like length stand together in groups of so many, see `LengthGroups`.
      seed: of the shuffling.
    """

    def __init__(
        self,
        table: LabelledTable,
        lengths: Mapping[str, int],
        vocabulary: str,
        class_weights: Literal['balanced'] | Mapping[str, float] | None = None,
        sampling: Literal['over', 'under'] | None = None,
        bidirectional: bool = False,
        group_by_length: int | None = None,
        seed: int = 0,
    ):
        if table.kind != 'class' and (class_weights is not None or sampling is not None):
            raise UserError('CLASS_WEIGHTS and SAMPLING are for classes, not for labels or numbers.')
        super().__init__(vocabulary, seed, group_by_length)
        self.table, self.length = table, check_lengths(lengths)
        self._bidirectional, self._class_weights, self._sampling = bidirectional, class_weights, sampling

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the head's scores."""
        return self.table.labels

    def epoch(self, features: Batch) -> list[int] | None:
        """Rare classes as often as frequent ones, or frequent ones as seldom, as `sampling` says."""
        if self._sampling is None:
            return None
        labels = features['labels']
        rng = np.random.default_rng(self._seed)
        groups = [np.flatnonzero(labels == c) for c in range(len(self.labels))]
        sizes = [len(group) for group in groups if len(group)]
        wanted = max(sizes) if self._sampling == 'over' else min(sizes)
        chosen = [np.resize(rng.permutation(group), wanted) for group in groups if len(group)]
        return sorted(np.concatenate(chosen).tolist())

    @functools.cached_property
    def validation_examples(self) -> list[Example]:
        """What `validation` goes through."""
        return self.table.examples('validation')

    def example(self) -> str:
        """The first training example, decoded."""
        batch = self.first()
        ids = batch['decoder_input_tokens'][batch['decoder_segment_ids'] > 0]
        label = str(batch['labels'])
        if self.table.kind == 'class':
            label += f' = {self.labels[batch["labels"]]!r}'
        text = self.vocabulary.decode(ids)
        return f'{len(ids)} of {self.length} tokens: {ids.tolist()}\ntext   {text!r}\nlabel  {label}'

    def encode(self, split: str) -> Batch:
        """Tokens and labels."""
        examples = self.table.examples(split)
        features, num_cut = self.inputs([(example.text, example.second_text) for example in examples])
        warn_truncated(num_cut, len(examples), f'{split} texts', self.length)
        labels = np.stack([self.table.encode(example) for example in examples])
        weights = np.ones(len(examples), np.float32)
        if split == 'train' and self._class_weights is not None:
            weights = class_weights(self._class_weights, self.labels, [e.label for e in examples])[labels]
        return features | {'labels': labels, 'label_weights': weights}

    def inputs(self, pairs: Sequence[tuple[str, str | None]]) -> tuple[Batch, int]:
        """Tokens and segment ids [E, L] of texts (with None) or pairs of texts, and how many were cut."""
        encoded = [self.tokens(*pair) for pair in pairs]
        features = token_features([ids for ids, _ in encoded], self.length, self._bidirectional)
        return features, sum(was_cut for _, was_cut in encoded)

    def tokens(self, text: str, second_text: str | None = None) -> tuple[list[int], bool]:
        """Ids of an example, `0 text EOS [second EOS]`, and whether something was cut."""
        parts = [self.vocabulary.encode(t) for t in (text, second_text) if t is not None]
        excess = sum(map(len, parts)) + len(parts) + 1 - self.length
        for _ in range(excess):
            max(parts, key=len).pop()
        return [0] + [i for part in parts for i in (*part, EOS_ID)], excess > 0
