"""Batches of texts of similar length, cut to the longest of them, so that little of a step is padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from palm_jax.data.supervised.examples import Batch, Examples, is_token
from palm_jax.errors import UserError

_WINDOW = 32  # groups sorted together, at most
_MAX_SHAPES = 6  # different lengths of rows, for each of which a step is compiled
_BATCHES_PER_SHAPE = 8  # held-out batches, read once, that are worth a further compilation
_ROWS_PER_SHAPE = 32  # training rows, read again and again, that are worth one
_LEAST_SAVING = 0.035  # share of all positions that a further shape must save


GroupSize = int | tuple[tuple[int, int], ...] | None


class LengthGroups(Examples):
    """`Examples` in groups of similar length; the rows of a group have one of at most six lengths.

    Rows that are few, or of much the same length, have fewer, because several compilations would not pay. The endless
    shuffled order is divided into windows of 32 groups, or as many as an epoch fills, so that the copies of a row in
    later epochs do not meet; a window is sorted by length, and its groups are shuffled. A batch remains a function of
    its number and the seed.

    Args:
      features: arrays [E, ...] by name.
      seed: seed for shuffling.
      rows: see `Examples`.
      group: number of examples in a group: the batch size, or a multiple of it.
      text_axes: axis of L by the name of each feature that has one; among them is `decoder_segment_ids` or
        `decoder_target_tokens`, which is 0 on padding.
      like: other groups, of the rows beside which these are read. Groups of the same number have the same rank of
        length in their windows, if an epoch fills as many, and the lengths are among those of the other rows, so that
        both are cut to much the same length.

    Raises:
      UserError: if a group is smaller than one example.
    """

    def __init__(
        self,
        features: Batch,
        seed: int,
        rows: Sequence[int] | None,
        group: int,
        text_axes: Mapping[str, int],
        like: LengthGroups | None = None,
    ):
        super().__init__(features, seed, rows)
        if group < 1:
            raise UserError(f'GROUP_BY_LENGTH is {group}; it must be the batch size, or a multiple of it.')
        self._group = group
        self._text_axes = {name: axis for name, axis in text_axes.items() if axis == 1}
        self._several_axes = {name: axis for name, axis in text_axes.items() if axis > 1}  # of several texts of a row
        self._shuffle_seed: int = seed if like is None else like._shuffle_seed
        window = _WINDOW if like is None else like._num_sorted
        self._num_sorted: int = min(max(self.epoch // group, 1), window)  # groups of a window
        lengths = _lengths(features)
        if like is None:
            self._lengths = padded_lengths(lengths, _num_shapes(self.epoch, _ROWS_PER_SHAPE))
            self._shapes = np.unique(self._lengths)
        else:
            self._shapes = np.unique([*like._shapes, max(lengths.max(), like._shapes[-1])])
            self._lengths = rounded_up(lengths, self._shapes)
        self._sorted: tuple[int, np.ndarray] | None = None

    def batch(self, first: int, size: int) -> Batch:
        """Return examples first, first + 1, ... of the grouped order: features [size, at most L].

        Features of several texts of a row, [size, ..., L], are as long as the longest of these and of the rows.
        """
        numbers = range(first, first + size)
        needed = sorted({number // self._group for number in numbers})
        groups = {n: self._window(n // self._num_sorted)[n % self._num_sorted] for n in needed}
        rows = np.array([groups[number // self._group][number % self._group] for number in numbers])
        length = self._lengths[rows].max()
        batch = _cut(self.features, rows, length, self._text_axes)
        for name in self._several_axes:
            if name.endswith('segment_ids'):
                texts = batch[name].reshape(-1, batch[name].shape[-1])
                length = max(length, self.padded_length({'decoder_segment_ids': texts}))
        return to_length(batch, self._several_axes, length)

    def padded_length(self, features: Batch) -> int:
        """Return the length to which a batch of some rows is padded; longer ones than all of these stay as they are."""
        longest = _lengths(features).max()
        return (
            int(rounded_up(longest, self._shapes)) if longest <= self._shapes[-1] else super().padded_length(features)
        )

    def describe(self) -> str:
        """Return the lengths of the rows in a line."""
        of_groups = self._lengths[self._window(0)].max(axis=1)
        average = '' if len(self._shapes) == 1 else f', {of_groups.mean():.0f} on average'
        return f'lengths    rows are padded to {", ".join(map(str, self._shapes))} tokens{average}'

    def _window(self, number: int) -> np.ndarray:
        """Return the groups of a window, [groups, group]."""
        if self._sorted is None or self._sorted[0] != number:
            size = self._num_sorted * self._group
            rows = np.array([self._order[i] for i in range(number * size, (number + 1) * size)])
            by_length = rows[self._lengths[rows].argsort(kind='stable')].reshape(self._num_sorted, self._group)
            self._sorted = number, np.random.default_rng((self._shuffle_seed, number)).permutation(by_length)
        return self._sorted[1]


def group_size(batch_size: GroupSize) -> int | None:
    """Return the size of groups that no batch of a ramp crosses more often than it must.

    Args:
      batch_size: a number, or pairs (first step, size), of whose sizes it is the least common multiple; None is none.
    """
    return batch_size if batch_size is None or isinstance(batch_size, int) else math.lcm(*(n for _, n in batch_size))


def one_pass(
    features: Batch, size: int, weights: str, text_axes: Mapping[str, int]
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield all examples once in batches of similar length, from the shortest to the longest.

    Args:
      features: arrays [E, ...] by name.
      size: examples per batch; the last batch is filled up with examples whose `weights` are 0.
      weights: name of the feature with the weights.
      text_axes: see `LengthGroups`.

    Yields:
      The numbers of the examples [at most size], and their features [size, at most L]. The rows have one of at most
      six lengths; few batches, for which several compilations do not pay, have the same.
    """
    lengths = _lengths(features)
    lengths = padded_lengths(lengths, _num_shapes(len(lengths), size * _BATCHES_PER_SHAPE))
    order = lengths.argsort(kind='stable')
    for first in range(0, len(order), size):
        numbers = order[first : first + size]
        rows = np.pad(numbers, (0, size - len(numbers)), mode='edge')
        batch = _cut(features, rows, lengths[rows].max(), text_axes)
        batch[weights][len(numbers) :] = 0
        yield numbers, batch


def _num_shapes(num_rows: int, rows_per_shape: int) -> int:
    """Return the number of different lengths that are worth their compilations."""
    return min(max(num_rows // rows_per_shape, 1), _MAX_SHAPES)


def padded_lengths(lengths: np.ndarray, shapes: int, least_saving: float = _LEAST_SAVING) -> np.ndarray:
    """Return the lengths to which rows are padded: `shapes` different ones at most, with the least padding in all.

    The best division of the sorted lengths into intervals, by dynamic programming (Bellman 1961; Jenks' natural breaks
    with the padding in place of the variance).

    Args:
      lengths: number of tokens of each row, int [E].
      shapes: most different lengths; at least 1.
      least_saving: share of all positions that each further length must save; those that would save less are left out.
    """
    values, counts = np.unique(lengths, return_counts=True)
    cumulative = np.concatenate([[0], np.cumsum(counts)])
    least = cumulative[1:] * values  # positions of the rows up to each length, in one interval
    last_of = []
    for _ in range(min(shapes, len(values)) - 1):
        before = np.concatenate([[0], least])  # intervals that end before each length
        # [end of the last interval, its beginning]
        costs = before + (cumulative[1:, None] - cumulative) * values[:, None]
        costs[np.arange(len(values) + 1) > np.arange(len(values))[:, None]] = np.iinfo(costs.dtype).max
        if (divided := costs.min(axis=1))[-1] > (1 - least_saving) * least[-1]:
            break  # the next ones save even less: the least cost is convex in their number
        last_of.append(costs.argmin(axis=1))
        least = divided
    ends = [len(values) - 1]
    for starts in reversed(last_of):
        if (start := starts[ends[-1]]) == 0:
            break
        ends.append(start - 1)
    return rounded_up(lengths, values[ends[::-1]])


def rounded_up(lengths: Any, shapes: np.ndarray) -> Any:
    """Return the smallest of the ascending shapes that is not below each length."""
    return shapes[np.searchsorted(shapes, lengths)]


def to_length(features: Batch, text_axes: Mapping[str, int], length: int) -> Batch:
    """Return features that are cut or, with zeros, padded to a number of tokens; views where nothing is added."""
    changed = {}
    for name, axis in text_axes.items():
        values = features[name][(slice(None),) * axis + (slice(length),)]
        missing = length - values.shape[axis]
        changed[name] = np.pad(values, [(0, missing * (i == axis)) for i in range(values.ndim)]) if missing else values
    return features | changed


def _lengths(features: Batch) -> np.ndarray:
    """Return the position after the last token of each row, at least 1."""
    is_used = is_token(features)
    return np.where(is_used.any(axis=1), is_used.shape[1] - is_used[:, ::-1].argmax(axis=1), 1)


def _cut(features: Batch, rows: np.ndarray, length: int, text_axes: Mapping[str, int]) -> Batch:
    """Return some rows, of which the features along the text are cut; copies."""
    return {name: values[rows] for name, values in to_length(features, text_axes, length).items()}
