"""Which sequences the batch of a step holds."""

import jax
import numpy as np

from palm_jax.partitioning import MeshLayout
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.feed import Feed


class Numbers:
    """Data whose sequence n is the number n."""

    def batch(self, first, size):
        return {'x': np.arange(first, first + size)[:, None]}


def test_batches_follow_one_another_over_a_ramp_and_after_a_skip():
    mesh = MeshLayout().mesh(jax.devices()[:1])
    feed = Feed(Numbers(), BatchSizes.of(((0, 2), (3, 4))), lambda step: 100 if step >= 4 else 0, mesh)
    read = [np.asarray(feed.batch(step)['x'])[:, 0].tolist() for step in range(5)]
    assert read == [[0, 1], [2, 3], [4, 5], [6, 7, 8, 9], [110, 111, 112, 113]]
    np.testing.assert_array_equal(feed.batch(1)['x'], [[2], [3]])  # a function of the step
