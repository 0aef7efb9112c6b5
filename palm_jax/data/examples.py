"""Examples that fit into memory, as endless shuffled batches and as one ordered pass."""

from __future__ import annotations

import collections
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import grain
import numpy as np

from palm_jax.data.vocabularies import Vocabulary, named
from palm_jax.errors import UserError, closest

Batch = dict[str, np.ndarray]


class Examples:
    """Features with a row an example.

    Args:
      features: arrays [E, ...] by name.
      seed: of the shuffling.
      rows: the examples that one epoch goes through, one number as often as it is drawn; None: each once.
    """

    def __init__(self, features: Batch, seed: int, rows: Sequence[int] | None = None):
        self.features = features
        self._rows = list(range(self.count)) if rows is None else list(rows)
        self._seed = seed
        self._order = grain.MapDataset.source(self._rows).shuffle(seed=seed).repeat()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(next(iter(self.features.values())))

    @property
    def epoch(self) -> int:
        """How many one epoch goes through."""
        return len(self._rows)

    def batch(self, first: int, size: int) -> Batch:
        """Examples first, first + 1, ... of the shuffled, endless order."""
        rows = np.array([self._order[i] for i in range(first, first + size)])
        return {name: values[rows] for name, values in self.features.items()}

    def in_order(self, size: int, weights: str) -> Iterator[Batch]:
        """All of them once; the last batch is filled up with examples whose `weights` are 0."""
        for first in range(0, self.count, size):
            rows = np.arange(first, first + size)
            batch = {name: values[np.minimum(rows, self.count - 1)] for name, values in self.features.items()}
            batch[weights][rows >= self.count] = 0
            yield batch


class InMemoryData:
    """What the data of every head is to the loop: batches of examples in memory, with the base's vocabulary.

    A kind of data says how a split becomes features (`encode`), which names its labels have, and
    which feature says what counts.

    Args:
      vocabulary: `bytes` or the path of a SentencePiece model: the base's.
      seed: of the shuffling.
    """

    labels: tuple[str, ...] = ()
    weights = 'label_weights'

    def __init__(self, vocabulary: str, seed: int):
        self._vocabulary_name, self._seed = vocabulary, seed

    def encode(self, split: Literal['train', 'validation']) -> Batch:
        """The features of a split."""
        raise NotImplementedError

    def epoch(self, features: Batch) -> Sequence[int] | None:
        """The examples that one epoch of training goes through; None: each once."""
        del features
        return None

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The base's."""
        return named(self._vocabulary_name)

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
        return Examples(features, self._seed, self.epoch(features))

    @functools.cached_property
    def _validation(self) -> Examples:
        return Examples(self.encode('validation'), self._seed)


def token_features(ids: Sequence[Sequence[int]], length: int, bidirectional: bool) -> Batch:
    """seqio's features of one segment a row, int32 [E, L], from ids of at most L a row.

    Args:
      ids: of every example, its start mark included.
      length: L.
      bidirectional: adds `decoder_causal_attention`, 1 on the tokens.
    """
    tokens = np.zeros((len(ids), length), np.int32)
    segments = np.zeros_like(tokens)
    for row, example in enumerate(ids):
        tokens[row, : len(example)], segments[row, : len(example)] = example, 1
    features = {'decoder_input_tokens': tokens, 'decoder_segment_ids': segments}
    return features | ({'decoder_causal_attention': segments} if bidirectional else {})


def is_held_out(text: str, one_in: int) -> bool:
    """Whether a text belongs to the held-out part, one in `one_in`, by its hash: equal texts stay together."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % one_in == 0


def check_lengths(lengths: Mapping[str, int]) -> int:
    """The L of {'inputs': L}."""
    if 'inputs' not in lengths or lengths['inputs'] < 3:
        raise UserError(f"TASK_FEATURE_LENGTHS is {dict(lengths)}; it needs 'inputs' of at least 3 tokens.")
    return lengths['inputs']


def say_cut(num_cut: int, count: int, what: str, length: int) -> None:
    """Tells how many examples were cut, if any."""
    if num_cut:
        print(
            f'{num_cut:,} of {count:,} {what} are longer than {length} tokens and are cut; '
            f'--gin.TASK_FEATURE_LENGTHS="{{\'inputs\': ...}}" takes more.',
            flush=True,
        )


def class_weights(given: str | Mapping[str, float], names: Sequence[str], used: Sequence[str]) -> np.ndarray:
    """A weight a class, float32 [C].

    Args:
      given: `balanced`: N / (C · the class's count), so that all count alike; or weights by
        name, 1 for those it lacks.
      names: of the classes.
      used: the training part's labels.

    Raises:
      UserError: a name that is no class.
    """
    if isinstance(given, str):
        counts = collections.Counter(used)
        return np.array([len(used) / (len(names) * max(counts[name], 1)) for name in names], np.float32)
    unknown = [name for name in given if name not in names]
    if unknown:
        raise UserError(
            f'CLASS_WEIGHTS: no class is called {unknown[0]!r}.{closest(unknown[0], names)} '
            f'Known: {", ".join(names[:20])}.'
        )
    return np.array([given.get(name, 1.0) for name in names], np.float32)
