"""Batches of labelled texts, or of labelled pairs of texts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from palm_jax.bounds import Count, Seed, Weight
from palm_jax.characters import check_characters
from palm_jax.data.readers import columns
from palm_jax.data.readers.bad_rows import BadRows, RefusedRows, shared_bad_rows
from palm_jax.data.readers.columns import Labels
from palm_jax.data.readers.row import Row
from palm_jax.data.readers.splits import Split
from palm_jax.data.supervised import label_hints
from palm_jax.data.supervised.examples import (
    Batch,
    check_lengths,
    class_weights,
    token_features,
    warn_truncated,
)
from palm_jax.data.supervised.in_memory import InMemoryData
from palm_jax.data.supervised.labelled_example import Example
from palm_jax.data.supervised.sources import Table
from palm_jax.errors import UserError, closest, located
from palm_jax.labels.label_kind import Encoded, LabelKind
from palm_jax.labels.single_label import SingleLabel
from palm_jax.metrics import text_baselines
from palm_jax.metrics.text_baselines import Baseline
from palm_jax.special_ids import EOS_ID


@dataclasses.dataclass(frozen=True)
class LabelledTable(Table[Example]):
    """Tables with a text and a label in every row.

    Attributes:
      validation_files: path or glob of the validation split; None holds out one row in `held_out`, chosen by the hash
        of its text, so that equal texts stay together, and so that no class is held out completely.
      text_column: name of the column with the text.
      label_column: name of the column with the label.
      second_text_column: name of the column with the second text of a pair; None for single texts.
      kind: kind of label, see `palm_jax.labels`.
      names: class names in the order of the head's outputs; None takes those of the training split in alphabetical
        order.
      group_column: name of the column with the group of a row, or of several, whose groups are combined; None for no
        groups.
    """

    text_column: str = 'text'
    label_column: str = 'label'
    second_text_column: str | None = None
    kind: LabelKind = SingleLabel()
    names: tuple[str, ...] | list[str] | None = None
    group_column: str | tuple[str, ...] | list[str] | None = None

    @property
    def text_columns(self) -> tuple[tuple[str, str], ...]:
        """(macro, name) of the column with the text, or of the columns with both texts of a pair."""
        text = ('TEXT_COLUMN', self.text_column)
        return (text,) if self.second_text_column is None else (text, ('SECOND_TEXT_COLUMN', self.second_text_column))

    @property
    def wanted(self) -> tuple[tuple[str, str], ...]:
        """(macro, name) of the columns that every row must have."""
        text, *second_text = self.text_columns
        groups = (('GROUP_COLUMN', name) for name in self.group_columns)
        return (text, ('LABEL_COLUMN', self.label_column), *second_text, *groups)

    @property
    def group_columns(self) -> tuple[str, ...]:
        """Names of the columns with the groups; empty for none."""
        given = self.group_column
        return (given,) if isinstance(given, str) else tuple(given or ())

    def texts(self, row: Row) -> tuple[str, ...]:
        """Return the text of a row, or both texts."""
        return tuple(columns.text(row, name, macro) for macro, name in self.text_columns)

    def parse(self, row: Row) -> Example:
        """Return the texts of a row with their label."""
        texts, label = self.texts(row), self._label(row)
        with located(row.location):
            self.kind.check(label)
        return Example.of(texts, label, row.location, self._group(row))

    def _group(self, row: Row) -> str | None:
        """Return the group of a row, of several columns joined by ×; None if a cell is empty."""
        parts = [columns.as_text(columns.find(row, name, 'GROUP_COLUMN')).strip() for name in self.group_columns]
        return ' × '.join(parts) if parts and all(parts) else None

    def keys(self, example: Example) -> tuple[str, ...]:
        """Return the text, or both texts."""
        return example.texts

    def classes(self, example: Example) -> list[str]:
        """Return the classes; none for numbers."""
        return self.kind.class_names(example.label)

    def read(self, pattern: str, binding: str) -> list[Example]:
        """Return the examples of a path or glob, after hints about labels that may not be meant as they are read."""
        examples = super().read(pattern, binding)
        if self.kind.has_classes:
            where = f'{pattern}, column {self.label_column!r}'
            cells = (name for e in examples if isinstance(e.label, str) for name in self.classes(e))
            label_hints.warn_of_separator(cells, self.kind.is_exclusive, where)
            label_hints.warn_of_vectors([e.label for e in examples if isinstance(e.label, tuple)], where)
        return examples

    def examples(self, split: Split) -> list[Example]:
        """Return the examples of a split; those of the validation split have labels that occur in training."""
        examples = super().examples(split)
        return examples if split == 'train' else self._with_known_labels(examples, shared_bad_rows(self.bad_rows))

    def further(self, files: str, binding: str) -> list[Example]:
        """Return the examples of further files, without their groups; see `ExampleFiles.further`."""
        examples = dataclasses.replace(self, group_column=None).read(files, binding)
        return self._with_known_labels(examples, RefusedRows())

    def reading(self, files: str, labels: Sequence[str] = (), predicted: bool = False) -> LabelledTable:
        """Return the same table of other training files, with these labels; see `InMemoryData.of_files`."""
        column, names = 'predicted' if predicted else self.label_column, tuple(labels) or None
        return dataclasses.replace(super().reading(files), names=names, label_column=column)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Class names; empty for numbers."""
        if not self.kind.has_classes:
            return ()
        found = self._names
        if len(found) < 2 and self.kind.is_exclusive and self.names is None:
            raise UserError(f'{self.train_files}: every label is {found[0]!r}; a classifier needs two classes.')
        if not found:
            raise UserError(f'{self.train_files}: no row has a label in the column {self.label_column!r}.')
        return found

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        if self.names is not None:
            return tuple(self.names)
        return tuple(sorted({name for e in self.examples('train') for name in self.classes(e)}))

    def encode(self, example: Example) -> Encoded:
        """Return an example's label as its kind encodes it."""
        ids = [self._id(name, example.location) for name in self.classes(example)]
        return self.kind.encode(example.label, ids, len(self.labels))

    def _id(self, name: str, location: str) -> int:
        if name not in self._ids:
            raise UserError(
                f'{location}: the label {name!r} never occurs in training.{closest(name, self._ids)} '
                f'Known: {", ".join(self._names[:20])}{" ..." if len(self._names) > 20 else ""}.'
            )
        return self._ids[name]

    def _with_known_labels(self, examples: list[Example], bad: BadRows) -> list[Example]:
        def known(example: Example) -> Example:
            for name in self.classes(example):
                self._id(name, example.location)
            return example

        kept = list(bad.keep(examples, known))
        bad.report()
        return kept

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._names)}

    def _label(self, row: Row) -> Labels:
        if not self.kind.has_classes:
            return columns.number(row, self.label_column, 'LABEL_COLUMN')
        read = columns.label if self.kind.is_exclusive else columns.labels
        return read(row, self.label_column, 'LABEL_COLUMN')


class FeatureSource(Protocol):
    """A source of further features of training examples."""

    def features(self, examples: Sequence[Example], table: LabelledTable) -> Batch:
        """Return features [E, ...] of the examples of a table."""


def num_outputs(table: LabelledTable) -> int:
    """Return the number of outputs that a head needs for a table's labels."""
    return table.kind.num_scores(len(table.labels))


class LabelledText(InMemoryData):
    """A labelled table as padded rows of `0 text EOS`, each with its label.

    A pair is `0 text EOS second EOS`. A text that is too long (of a pair, the longer one) is truncated at its end; the
    number of truncated texts is printed.

    Args:
      table: source of the texts and labels.
      lengths: {'inputs': L}, tokens per row.
      vocabulary: `bytes` or the path of a SentencePiece model: the vocabulary of the base model.
      class_weights: `balanced` weights a class by N / (C · its count) in training, so that all classes count alike; a
        mapping gives weights by name, 1 for the names that it lacks; None does not weight classes.
      sampling: `over` draws rare classes as often as the most frequent one, `under` draws frequent ones as seldom as
        the rarest; None takes every example once per epoch.
      bidirectional: whether the tokens of a text attend to one another in both directions.
      further: sources of further features of the training part, e.g. predictions of a teacher.
      group_by_length: size of the groups of examples of similar length, see `LengthGroups`, or the ramp of BATCH_SIZE;
        None does not group.
      seed: seed for shuffling.
    """

    def __init__(
        self,
        table: LabelledTable,
        lengths: Mapping[str, Count],
        vocabulary: str,
        class_weights: Literal['balanced'] | Mapping[str, Weight] | None = None,
        sampling: Literal['over', 'under'] | None = None,
        bidirectional: bool = False,
        group_by_length: Count | tuple[tuple[int, int], ...] | None = None,
        seed: Seed = 0,
        further: Sequence[FeatureSource] = (),
    ):
        if not table.kind.is_exclusive and (class_weights is not None or sampling is not None):
            raise UserError('CLASS_WEIGHTS and SAMPLING need one class per text, not label sets or numbers.')
        super().__init__(table, vocabulary, seed, group_by_length)
        self.length = check_lengths(lengths)
        self.bidirectional, self._class_weights, self._sampling = bidirectional, class_weights, sampling
        self._further = tuple(further)

    @property
    def table(self) -> LabelledTable:
        """Source of the texts and labels."""
        return self._source

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the head's outputs."""
        return self.table.labels

    def describe_label(self, encoded: np.ndarray) -> str:
        """Return an encoded label as text."""
        described = self.table.kind.describe(encoded, self.labels)
        return ', '.join(described) if isinstance(described, list) else f'{described}'

    def epoch(self, features: Batch) -> list[int] | None:
        """Return the examples of an epoch, with classes drawn equally often if `sampling` asks for it."""
        if self._sampling is None:
            return None
        labels = features['labels']
        rng = np.random.default_rng(self._seed)
        groups = [np.flatnonzero(labels == c) for c in range(len(self.labels))]
        sizes = [len(group) for group in groups if len(group)]
        wanted = max(sizes) if self._sampling == 'over' else min(sizes)
        chosen = [np.resize(rng.permutation(group), wanted) for group in groups if len(group)]
        return sorted(np.concatenate(chosen).tolist())

    def classes(self, example: Example) -> list[str]:
        """Return the classes of an example."""
        return self.table.classes(example)

    @functools.cached_property
    def baselines(self) -> list[Baseline]:
        """What counting and a linear model reach on the held-out part."""
        kind, parts = self.table.kind, [self.examples('train'), self.validation_examples]
        compute = text_baselines.of_numbers
        if kind.has_classes:
            compute = text_baselines.of_classes if kind.is_exclusive else text_baselines.of_label_sets
        texts, labels = [], []
        for part in parts:
            texts.append(['\n'.join(example.texts) for example in part])
            labels.append(np.stack([self.table.encode(example) for example in part]))
        return compute(texts[0], labels[0], texts[1], labels[1])

    def example(self) -> str:
        """Return the first training example, decoded."""
        batch = self.first()
        ids = batch['decoder_input_tokens'][batch['decoder_segment_ids'] > 0]
        label = self.table.kind.describe(batch['labels'], self.labels)
        text = self.vocabulary.decode(ids)
        return f'{len(ids)} of {self.length} tokens: {ids.tolist()}\ntext   {text!r}\nlabel  {label!r}'

    def encode(self, split: Split) -> Batch:
        """Return the features of a split: tokens, segment ids, `labels` and `label_weights`."""
        examples = self.examples(split)
        features, num_truncated = self.inputs([(example.text, example.second_text) for example in examples])
        self._num_truncated[split] = num_truncated
        warn_truncated(num_truncated, len(examples), f'{split} texts', self.length)
        labels = np.stack([self.table.encode(example) for example in examples])
        weights = np.ones(len(examples), np.float32)
        if split == 'train' and self._class_weights is not None:
            weights = class_weights(
                self._class_weights,
                self.labels,
                [name for e in examples for name in self.table.classes(e)],
            )[labels]
        features |= {'labels': labels, 'label_weights': weights}
        for source in self._further_for('texts') if split == 'train' else ():
            features |= source.features(examples, self.table)
        return features

    def inputs(self, pairs: Sequence[tuple[str, str | None]]) -> tuple[Batch, int]:
        """Return features [E, L] of texts (with None) or of pairs of texts, and the number of truncated ones."""
        encoded = [self.tokens(*pair) for pair in pairs]
        features = token_features([ids for ids, _ in encoded], self.length, self.bidirectional)
        return features, sum(was_truncated for _, was_truncated in encoded)

    def tokens(self, text: str, second_text: str | None = None) -> tuple[list[int], bool]:
        """Return the ids of an example, `0 text EOS [second EOS]`, and whether it was truncated.

        Without a start token, see `Vocabulary.start_ids`, there is no 0.
        """
        texts = [check_characters(t, 'the text') for t in (text, second_text) if t is not None]
        parts = [self.vocabulary.encode(t) for t in texts]
        start = self.vocabulary.start_ids
        excess = sum(map(len, parts)) + len(parts) + len(start) - self.length
        for _ in range(excess):
            max(parts, key=len).pop()
        return [*start, *(i for part in parts for i in (*part, EOS_ID))], excess > 0
