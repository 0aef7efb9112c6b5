"""Examples that fit into memory, as endless shuffled batches and as one ordered pass; how they become features."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from palm_jax.errors import UserError, closest

Batch = dict[str, np.ndarray]


def checked_seed(seed: int) -> int:
    """The seed, if every generator of random numbers takes it."""
    if not 0 <= seed < 2**31:
        raise UserError(f'SEED is {seed}; it must be at least 0 and below {2**31}.')
    return seed


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


def check_lengths(lengths: Mapping[str, int]) -> int:
    """The L of {'inputs': L}."""
    if 'inputs' not in lengths or lengths['inputs'] < 3:
        raise UserError(f"TASK_FEATURE_LENGTHS is {dict(lengths)}; it needs 'inputs' of at least 3 tokens.")
    return lengths['inputs']


def warn_truncated(num_cut: int, count: int, what: str, length: int) -> None:
    """Tells how many examples were cut, if any."""
    if num_cut:
        print(
            f'{num_cut:,} of {count:,} {what} are longer than {length} tokens and are cut; '
            f'--gin.TASK_FEATURE_LENGTHS="{{\'inputs\': ...}}" takes more.',
            flush=True,
        )


def is_token(features: Batch) -> np.ndarray:
    """Where rows have a token and no padding: boolean [E, L]."""
    return features.get('decoder_segment_ids', features.get('decoder_target_tokens')) != 0


def warn_padding(features: Batch, advice: str) -> None:
    """Tells how much of the rows is padding, if it is much, and what helps."""
    is_padding = ~is_token(features)
    if (share := is_padding.mean()) >= 0.3:
        count, length = is_padding.shape
        print(f'{count:,} rows of {length} tokens, {share:.0%} of them padding; {advice}', flush=True)


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
