"""The base of all supervised data: examples in memory, as batches by number."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator, Sequence

from palm_jax.data.readers.splits import Split
from palm_jax.data.supervised.examples import Batch, Examples, checked_seed, warn_padding, warn_unknown
from palm_jax.data.supervised.length_groups import LengthGroups
from palm_jax.data.vocabulary.vocabularies import Vocabulary, load_vocabulary
from palm_jax.run_directory import RunDirectory


class InMemoryData(abc.ABC):
    """Batches of examples in memory, tokenized with the vocabulary of the base model; implements `interfaces.Data`.

    A subclass implements `encode`, which makes features of a split.

    Args:
      vocabulary: `bytes` or the path of a SentencePiece model: the vocabulary of the base model.
      seed: seed for shuffling.
      group_by_length: size of the groups of examples of similar length, see `LengthGroups`; None does not group.

    Attributes:
      weights: name of the feature with the weights of the loss.
      labels_along_text: whether there is a label per token, not per text.
      against_padding: advice that is printed if much of the rows is padding.
    """

    weights = 'label_weights'
    labels_along_text = False
    against_padding = '--gin.GROUP_BY_LENGTH=%BATCH_SIZE avoids most of it'

    def __init__(self, vocabulary: str, seed: int, group_by_length: int | None = None):
        self._vocabulary_name, self._seed, self.group = vocabulary, checked_seed(seed), group_by_length

    def prepare(self, run: RunDirectory) -> None:
        """Do nothing: the vocabulary is that of the base model."""
        del run

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of a head's classes or tags; empty without a head, and for numbers."""
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

    def validation(self, size: int) -> Iterator[Batch]:
        """Yield the validation split in order; the last batch is filled up with examples of weight 0."""
        return self._validation.in_order(size, self.weights)

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
        along_text = [name for name in features if name.startswith('decoder_') or self.labels_along_text]
        return LengthGroups(features, self._seed, rows, self.group, along_text)

    @functools.cached_property
    def _validation(self) -> Examples:
        return Examples(self.encode('validation'), self._seed)
