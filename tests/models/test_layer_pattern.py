"""What differs from layer to layer: windows of attention, and layers without rotation."""

import dataclasses

import jax
import numpy as np

from palm_jax.models.architecture import Architecture
from palm_jax.models.layer_pattern import LayerPattern
from palm_jax.models.masks import Mask

ARCH = Architecture(vocab_size=7, d_model=8, num_layers=6, num_heads=1, head_dim=4)


def test_equal_layers_have_no_pattern():
    pattern = LayerPattern.of(ARCH, range(6))
    assert pattern.window is None and pattern.is_rotated is None
    positions, mask = np.arange(3)[None], Mask()
    assert pattern.rotary_positions(positions) is positions and pattern.limit(mask) is mask


def test_each_layer_has_its_window_and_its_rotation():
    arch = dataclasses.replace(ARCH, window=2, global_layers=(2, 5), unrotated_layers=(5,))
    pattern = LayerPattern.of(arch, range(1, 6))
    assert (np.asarray(pattern.window) == [2, 2**30, 2, 2, 2**30]).all()
    assert np.asarray(pattern.is_rotated).tolist() == [1, 1, 1, 1, 0]
    query, key = np.indices((4, 4))
    for number in range(5):  # as a scan over layers takes them apart
        layer = jax.tree.map(lambda x, i=number: x[i], pattern)
        expected = (key <= query) & ((query - key < 2) | (number in (1, 4)))
        np.testing.assert_array_equal(layer.limit(Mask()).allowed(4)[0], expected)
        rotated = np.arange(4)[None] * (number != 4)
        np.testing.assert_array_equal(layer.rotary_positions(np.arange(4)[None]), rotated)
