"""What the data of every head is to the loop."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator, Sequence
from typing import Literal

from palm_jax.data.supervised.examples import Batch, Examples, checked_seed, warn_padding
from palm_jax.data.supervised.length_groups import LengthGroups
from palm_jax.data.vocabulary.vocabularies import Vocabulary, load_vocabulary


class InMemoryData(abc.ABC):
    """What the data of every head is to the loop: batches of examples in memory, with the base's vocabulary.

    A kind of data says how a split becomes features (`encode`), which names its labels have, and
    which feature says what counts.

    Args:
      vocabulary: `bytes` or the path of a SentencePiece model: the base's.
      seed: of the shuffling.
      group_by_length: examples of like length stand together in groups of so many, see `LengthGroups`.
    """

    labels: tuple[str, ...] = ()
    weights = 'label_weights'
    labels_along_text = False  # a label a token, not a text
    against_padding = '--gin.GROUP_BY_LENGTH=%BATCH_SIZE leaves most of it out'

    def __init__(self, vocabulary: str, seed: int, group_by_length: int | None = None):
        self._vocabulary_name, self._seed, self.group = vocabulary, checked_seed(seed), group_by_length

    @abc.abstractmethod
    def encode(self, split: Literal['train', 'validation']) -> Batch:
        """The features of a split."""

    def epoch(self, features: Batch) -> Sequence[int] | None:
        """The examples that one epoch of training goes through; None: each once."""
        del features
        return None

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The base's."""
        return load_vocabulary(self._vocabulary_name)

    @property
    def is_ready(self) -> bool:
        """The vocabulary is the base's, so it exists."""
        return True

    @property
    def num_sequences(self) -> int:
        """Examples in one epoch."""
        return self._train.epoch

    def batch(self, first: int, size: int) -> Batch:
        """Examples first, first + 1, ... of the shuffled, endless order."""
        return self._train.batch(first, size)

    def validation(self, size: int) -> Iterator[Batch]:
        """The held-out part in its order, the last batch filled up with weight 0."""
        return self._validation.in_order(size, self.weights)

    def blank(self) -> Batch:
        """An example, for the names, shapes and types of the features."""
        return self.first()

    def first(self) -> Batch:
        """The first training example."""
        return {name: values[0] for name, values in self._train.features.items()}

    @functools.cached_property
    def _train(self) -> Examples:
        features = self.encode('train')
        rows = self.epoch(features)
        if self.group is None:
            warn_padding(features, self.against_padding)
            return Examples(features, self._seed, rows)
        along_text = [name for name in features if name.startswith('decoder_') or self.labels_along_text]
        return LengthGroups(features, self._seed, rows, self.group, along_text)

    @functools.cached_property
    def _validation(self) -> Examples:
        return Examples(self.encode('validation'), self._seed)
