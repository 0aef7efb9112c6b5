"""The base of all supervised data: examples in memory, as batches by number."""

from __future__ import annotations

import abc
import copy
import functools
import hashlib
import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Self

import numpy as np

from palm_jax.bounds import Seed, checked
from palm_jax.data.readers.delimited import Layout
from palm_jax.data.readers.splits import SPLITS, Split, count_shared
from palm_jax.data.supervised import overview
from palm_jax.data.supervised.examples import Batch, Examples, warn_padding, warn_unknown
from palm_jax.data.supervised.length_groups import GroupSize, LengthGroups, group_size, one_pass
from palm_jax.data.supervised.sources import Source
from palm_jax.data.vocabulary.vocabularies import Vocabulary, load_vocabulary
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory

_LOGGER = logging.getLogger(__name__)


@checked
class InMemoryData(abc.ABC):
    """Batches of examples in memory, tokenized with the vocabulary of the base model; implements `interfaces.Data`.

    A subclass implements `encode`, the features of a split; also `texts`, if its examples have no `texts`, and
    `classes`, if they have some.

    Args:
      source: source of the examples.
      vocabulary: `bytes` or the path of a SentencePiece model: the vocabulary of the base model.
      seed: seed for shuffling.
      group_by_length: size of the groups of examples of similar length, see `LengthGroups`, or the ramp of BATCH_SIZE;
        None does not group.

    Attributes:
      weights: name of the feature with the weights of the loss.
      labels_along_text: whether there is a label per token, not per text.
      noun: what an example is called in messages.
      against_padding: advice that is printed if much of the rows is padding.
    """

    weights = 'label_weights'
    labels_along_text = False
    noun = 'row'
    against_padding = '--gin.GROUP_BY_LENGTH=%BATCH_SIZE avoids most of it'

    def __init__(self, source: Source, vocabulary: str, seed: Seed, group_by_length: GroupSize = None):
        self._source: Any = source
        self._vocabulary_name, self._seed, self.group = vocabulary, seed, group_size(group_by_length)
        self._num_truncated: dict[Split, int] = {}
        self._further: tuple[Any, ...] = ()

    def prepare(self, run: RunDirectory) -> None:
        """Do nothing: the vocabulary is that of the base model."""
        del run

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of a head's classes or tags; empty without a head, and for numbers."""
        return ()

    @property
    def layout(self) -> Layout:
        """Layout of the tables, for further tables of the same kind."""
        return self._source.layout

    @property
    def train_files(self) -> list[str]:
        """Files that are trained on; none for a task that is not read from files."""
        files = getattr(self._source, 'train_files', None)
        return [] if files is None else [files]

    @property
    def is_split_by_hash(self) -> bool:
        """Whether the held-out part is chosen from TRAIN_FILES."""
        return self._source.validation_files is None

    def examples(self, split: Split) -> Sequence[Any]:
        """Return the examples of a split."""
        return self._source.examples(split)

    @functools.cached_property
    def validation_examples(self) -> Sequence[Any]:
        """Examples of the validation split, in order."""
        return self.examples('validation')

    def of_files(self, files: str, predicted: bool = False) -> Self:
        """Return the same kind of data from other training files, of which a tenth is held out by hash.

        Labels have the same numbers. Examples are neither augmented nor do they have features from further sources.

        Args:
          files: path or glob.
          predicted: whether the targets are in the column `predicted`, which `palm-jax infer` writes.

        Raises:
          UserError: the examples are not from files, or are not what `palm-jax infer` predicts.
        """
        if not hasattr(self._source, 'reading'):
            raise UserError('the task of this run is registered, and not read from files.')
        copied = self._copied()
        copied._further = ()
        copied._source = self._source.reading(files, self.labels, predicted)
        return copied

    def further_examples(self, files: str, binding: str) -> Sequence[Any]:
        """Return the examples of further files, as those of the validation split.

        Args:
          files: path or glob.
          binding: flag that names the files, for messages.

        Raises:
          UserError: an example is unusable or has an unknown label, or the task of the run is not read from files.
        """
        return self.of_files(files)._source.further(files, binding)

    def with_further(self, source: Any) -> Self:
        """Return the same data with further features of the training part; for the source see `LabelledText`."""
        copied = self._copied()
        copied._further = (*self._further, source)
        return copied

    def _further_for(self, reads: str) -> tuple[Any, ...]:
        """Return the sources of further features, which this kind of data can use.

        What a source reads is its attribute `reads`, and what to take instead is `otherwise`, if it has them.

        Args:
          reads: `texts` with labels, or `tokens` of generated text.

        Raises:
          UserError: a source is for the other kind.
        """
        for source in self._further:
            if getattr(source, 'reads', reads) != reads:
                here, there = 'generates text', 'predicts labels'
                here, there = (here, there) if reads == 'tokens' else (there, here)
                advice = getattr(source, 'otherwise', 'leave it out')
                raise UserError(
                    f'FURTHER_FEATURES: {type(source).__name__} is for a model that {there}, and this one {here}: '
                    f'{advice}.'
                )
        return self._further

    def ungrouped(self) -> Self:
        """Return the same data in its plain order, which does not bring examples of similar length together."""
        copied = self._copied()
        copied.group = None
        copied.against_padding = 'smaller TASK_FEATURE_LENGTHS avoid some of it'
        return copied

    def _copied(self) -> Self:
        """A copy that has not encoded anything yet."""
        copied = copy.copy(self)
        for name in [n for n in vars(copied) if isinstance(getattr(type(self), n, None), functools.cached_property)]:
            del vars(copied)[name]
        copied._num_truncated = {}
        return copied

    def texts(self, example: Any) -> Sequence[str]:
        """Return all texts of an example, uncut: they identify it."""
        return example.texts

    def classes(self, example: Any) -> Collection[str]:
        """Return the classes, labels or entities of an example, to be counted."""
        del example
        return ()

    @abc.abstractmethod
    def encode(self, split: Split) -> Batch:
        """Return the features of a split."""

    def epoch(self, features: Batch) -> Sequence[int] | None:
        """Return the numbers of the examples in an epoch of training; None takes each once."""
        del features
        return None

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary of the base model."""
        return load_vocabulary(self._vocabulary_name)

    @property
    def is_ready(self) -> bool:
        """True: the vocabulary of the base model exists already."""
        return True

    @property
    def num_sequences(self) -> int:
        """Number of examples in an epoch."""
        return self._train.epoch

    def batch(self, first: int, size: int) -> Batch:
        """Return examples first, first + 1, ... of the endless shuffled order."""
        return self._train.batch(first, size)

    @property
    def num_validation_sequences(self) -> int:
        """Number of examples in the held-out part."""
        return self._validation.count

    def describe(self) -> str:
        """Return both parts in numbers, after encoding and checking them; log what is unusual about them."""
        self._train, self._validation  # noqa: B018 - encoded here, so that an error costs no training
        parts = {split: self.examples(split) for split in SPLITS}
        counts = {split: len(part) for split, part in parts.items()}
        texts = {split: ['\n'.join(self.texts(example)) for example in part] for split, part in parts.items()}
        per_character = overview.tokens_per_character(self.vocabulary, texts['train'])
        shares = ', '.join(
            f'{self._num_truncated.get(split, 0) / counts[split]:.1%} of the {name} rows are cut'
            for split, name in zip(SPLITS, ('training', 'held-out'), strict=True)
        )
        if warning := overview.warning_of_few(counts['validation'], self.noun):
            _LOGGER.warning(warning)
        if shared := count_shared(texts['train'], texts['validation']):
            _LOGGER.warning(
                f'{shared:,} of {counts["validation"]:,} held-out {self.noun}s are also in the training part '
                f'({shared / counts["validation"]:.1%}): results on them do not show how the model does on new text.'
            )
        if warning := overview.warning_of_bytes(per_character):
            _LOGGER.warning(f'{warning}; {shares}. A base with a vocabulary for this text reads more of each row.')
        return '\n'.join(
            [
                overview.of_rows(counts, self.noun, self.is_split_by_hash),
                *overview.of_classes(*([self.classes(e) for e in parts[split]] for split in SPLITS)),
                f'text       {per_character:.2f} tokens per character, {shares}',
                *([self._train.describe()] if isinstance(self._train, LengthGroups) else []),
            ]
        )

    def text_axes(self, features: Batch) -> dict[str, int]:
        """Return the axis of the text's tokens by the name of each feature that has one."""
        axes = {name: 1 for name in features if name.startswith('decoder_') or self.labels_along_text}
        several = ('_tokens', '_segment_ids')  # of several texts of a row, one after another
        return axes | {name: values.ndim - 1 for name, values in features.items() if name.endswith(several)}

    def beside(self, features: Batch, per_row: int, seed: int) -> Examples:
        """Return further examples as an endless shuffled order, `per_row` of them beside each training example.

        Where the training examples are grouped by length, these are grouped alike; see `LengthGroups`.

        Args:
          features: features of the further examples, of the training examples' names.
          per_row: number of them beside a training example.
          seed: seed for shuffling.
        """
        train = self._train
        if not isinstance(train, LengthGroups):
            return Examples(features, seed)
        assert self.group is not None
        return LengthGroups(features, seed, None, self.group * per_row, self.text_axes(features), train)

    def validation(self, size: int) -> Iterator[Batch]:
        """Yield the validation split in order; the last batch is filled up with examples of weight 0."""
        return self._validation.in_order(size, self.weights)

    def validation_by_length(self, size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield the validation split once in batches of similar length, with the numbers of the examples."""
        return self.by_length(self._validation.features, size)

    def by_length(self, features: Batch, size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield examples, features [E, ...], once in batches of similar length, with their numbers; see `one_pass`."""
        return one_pass(features, size, self.weights, self.text_axes(features))

    def identity(self) -> dict[str, dict[str, Any]]:
        """Return, for each split, the number of its rows and a SHA-256 of their features and of their texts, uncut."""
        found: dict[str, dict[str, Any]] = {}
        for split, features in zip(SPLITS, (self._train, self._validation), strict=True):
            rows = self.examples(split)
            digest = hashlib.sha256(features.sha256().encode())
            for row in rows:
                digest.update(repr(tuple(self.texts(row))).encode())
            found[split] = {'rows': len(rows), 'sha256': digest.hexdigest()}
        return found

    def blank(self) -> Batch:
        """Return an example, for the names, shapes and types of the features."""
        return self.first()

    def first(self) -> Batch:
        """Return the first training example."""
        return {name: values[0] for name, values in self._train.features.items()}

    @functools.cached_property
    def _train(self) -> Examples:
        features = self.encode('train')
        warn_unknown(features, self.vocabulary.unknown_id)
        rows = self.epoch(features)
        if self.group is None:
            warn_padding(features, self.against_padding)
            return Examples(features, self._seed, rows)
        return LengthGroups(features, self._seed, rows, self.group, self.text_axes(features))

    @functools.cached_property
    def _validation(self) -> Examples:
        return Examples(self.encode('validation'), self._seed)
