"""Batches of texts of similar length, cut to the longest of them, so that little of a step is padding."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from palm_jax.data.supervised.examples import Batch, Examples, is_token
from palm_jax.errors import UserError

_WINDOW = 32  # groups sorted together
_SHAPES = 4  # different lengths of rows, for each of which a step is compiled


class LengthGroups(Examples):
    """`Examples` in groups of similar length; the rows of a group have a length of one to four quarters of L.

    The endless shuffled order is divided into windows of 32 groups; a window is sorted by length, and its groups are
    shuffled. An epoch contains the same examples as without groups; a batch remains a function of its number and the
    seed.

    Args:
      features: arrays [E, ...] by name.
      seed: seed for shuffling.
      rows: see `Examples`.
      group: number of examples in a group: the batch size, or a multiple of it.
      along_text: names of the features whose second axis is L; one of them is `decoder_segment_ids` or
        `decoder_target_tokens`, which is 0 on padding.

    Raises:
      UserError: if a group is smaller than one example.
    """

    def __init__(self, features: Batch, seed: int, rows: Sequence[int] | None, group: int, along_text: Collection[str]):
        super().__init__(features, seed, rows)
        if group < 1:
            raise UserError(f'GROUP_BY_LENGTH is {group}; it must be the batch size, or a multiple of it.')
        self._seed, self._group, self._along_text = seed, group, along_text
        is_used = is_token(features)
        longest = is_used.shape[1]
        quarter = -(-longest // _SHAPES)
        lengths = longest - is_used[:, ::-1].argmax(axis=1)
        self._lengths = np.minimum(-(-lengths // quarter) * quarter, longest)
        self._sorted: tuple[int, np.ndarray] | None = None

    def batch(self, first: int, size: int) -> Batch:
        """Return examples first, first + 1, ... of the grouped order: features [size, at most L].

        Raises:
          UserError: if they belong to two groups.
        """
        number, start = divmod(first, self._group)
        if start + size > self._group:
            raise UserError(
                f'GROUP_BY_LENGTH = {self._group}: examples {first} to {first + size} of a batch are in two groups. '
                'Set it to the batch size, or a multiple of it.'
            )
        group = self._window(number // _WINDOW)[number % _WINDOW]
        rows, length = group[start : start + size], self._lengths[group].max()
        return {
            name: values[rows, :length] if name in self._along_text else values[rows]
            for name, values in self.features.items()
        }

    def _window(self, number: int) -> np.ndarray:
        """Return the groups of a window, [32, group]."""
        if self._sorted is None or self._sorted[0] != number:
            size = _WINDOW * self._group
            rows = np.array([self._order[i] for i in range(number * size, (number + 1) * size)])
            by_length = rows[self._lengths[rows].argsort(kind='stable')].reshape(_WINDOW, self._group)
            self._sorted = number, np.random.default_rng((self._seed, number)).permutation(by_length)
        return self._sorted[1]
