"""Examples in memory, as endless shuffled batches and as one ordered pass, and their features."""

from __future__ import annotations

import collections
import hashlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import grain
import numpy as np

from palm_jax.errors import UserError, closest

Batch: TypeAlias = dict[str, np.ndarray]
_LOGGER = logging.getLogger(__name__)


class Examples:
    """Features with a row per example.

    Args:
      features: arrays [E, ...] by name.
      seed: seed for shuffling.
      rows: numbers of the examples in an epoch, repeated as often as they are drawn; None takes each once.
    """

    def __init__(self, features: Batch, seed: int, rows: Sequence[int] | None = None):
        self.features = features
        self._rows = list(range(self.count)) if rows is None else list(rows)
        self._seed = seed
        self._order = grain.MapDataset.source(self._rows).shuffle(seed=seed).repeat()

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(next(iter(self.features.values())))

    @property
    def epoch(self) -> int:
        """Number of examples in an epoch."""
        return len(self._rows)

    def sha256(self) -> str:
        """Return a SHA-256 of all features, in hexadecimal digits."""
        digest = hashlib.sha256()
        for name, values in sorted(self.features.items()):
            digest.update(f'{name} {values.dtype} {values.shape} '.encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def batch(self, first: int, size: int) -> Batch:
        """Return examples first, first + 1, ... of the endless shuffled order."""
        rows = np.array([self._order[i] for i in range(first, first + size)])
        return {name: values[rows] for name, values in self.features.items()}

    def padded_length(self, features: Batch) -> int:
        """Return the length to which a batch of some rows, features [B, L], is padded: their own L."""
        return is_token(features).shape[1]

    def in_order(self, size: int, weights: str) -> Iterator[Batch]:
        """Yield all examples once; the last batch is filled up with examples whose `weights` are 0."""
        for first in range(0, self.count, size):
            rows = np.arange(first, first + size)
            batch = {name: values[np.minimum(rows, self.count - 1)] for name, values in self.features.items()}
            batch[weights][rows >= self.count] = 0
            yield batch


def token_features(ids: Sequence[Sequence[int]], length: int, bidirectional: bool) -> Batch:
    """Return seqio's features of one segment per row, int32 [E, L].

    Args:
      ids: at most L token ids of each example, BOS included.
      length: L.
      bidirectional: whether to add `decoder_causal_attention`, 1 on the tokens.
    """
    tokens = np.zeros((len(ids), length), np.int32)
    segments = np.zeros_like(tokens)
    for row, example in enumerate(ids):
        tokens[row, : len(example)], segments[row, : len(example)] = example, 1
    features = {'decoder_input_tokens': tokens, 'decoder_segment_ids': segments}
    return features | ({'decoder_causal_attention': segments} if bidirectional else {})


def check_lengths(lengths: Mapping[str, int]) -> int:
    """Return the L of {'inputs': L}."""
    if 'inputs' not in lengths or lengths['inputs'] < 3:
        raise UserError(f"TASK_FEATURE_LENGTHS is {dict(lengths)}; it needs 'inputs' of at least 3 tokens.")
    return lengths['inputs']


def warn_truncated(num_cut: int, count: int, what: str, length: int) -> None:
    """Log how many examples were truncated, if any."""
    if num_cut:
        _LOGGER.warning(
            f'{num_cut:,} of {count:,} {what} ({num_cut / count:.0%}) are longer than {length} tokens and are truncated'
            f'; --gin.TASK_FEATURE_LENGTHS="{{\'inputs\': ...}}" takes more.'
        )


def is_token(features: Batch) -> np.ndarray:
    """Return the positions that hold a token, not padding: boolean [E, L]."""
    name = 'decoder_segment_ids' if 'decoder_segment_ids' in features else 'decoder_target_tokens'
    return np.not_equal(features[name], 0)


def warn_padding(features: Batch, advice: str) -> None:
    """Log the share of padding if it is at least 30%, with advice."""
    is_padding = ~is_token(features)
    if (share := is_padding.mean()) >= 0.3:
        count, length = is_padding.shape
        _LOGGER.warning(f'{count:,} rows of {length} tokens, {share:.0%} of them padding; {advice}')


def warn_unknown(features: Batch, unknown_id: int | None) -> None:
    """Log the share of tokens that the vocabulary of the base does not know, if there are any."""
    tokens = features['decoder_input_tokens'][is_token(features)]
    if num_unknown := np.count_nonzero(tokens == unknown_id):
        _LOGGER.warning(
            f'{num_unknown:,} of {len(tokens):,} training tokens ({num_unknown / len(tokens):.1%}) are unknown to the '
            'vocabulary of the base model: the characters that they stand for are lost. A base with another '
            'vocabulary, e.g. bytes, knows every text.'
        )


def class_weights(given: str | Mapping[str, float], names: Sequence[str], used: Sequence[str]) -> np.ndarray:
    """Return a weight per class, float32 [C].

    Args:
      given: `balanced` for N / (C · the class's count), so that all classes count alike; or weights by name, 1 for the
        names that it lacks.
      names: class names.
      used: labels of the training split.

    Raises:
      UserError: if a name is not a class, or a weight is not a number of at least 0.
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
    for name, weight in given.items():
        if not (isinstance(weight, int | float) and 0 <= weight < math.inf):
            raise UserError(
                f'CLASS_WEIGHTS: the weight of {name!r} is {weight!r}; it must be a number of at least 0. '
                '0 leaves the class out of the loss.'
            )
    if not any(given.get(name, 1.0) for name in set(used)):
        raise UserError('CLASS_WEIGHTS: the weights of all classes are 0, so that nothing would be learned.')
    return np.array([given.get(name, 1.0) for name in names], np.float32)
