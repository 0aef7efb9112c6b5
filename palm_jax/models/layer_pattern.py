"""What differs from layer to layer: sliding windows, and layers without rotation."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.models.architecture import Architecture
from palm_jax.models.masks import Mask

_EVERYTHING = 2**30  # a window wider than any context


@flax.struct.dataclass
class LayerPattern:
    """The differences of one layer, or of all N, which a scan over layers takes apart.

    Attributes:
      window: window of attention, int32 [] or [N]; None where no layer has one.
      is_rotated: 1 where RoPE applies, 0 where it does not, int32 [] or [N]; None where it applies in all layers.
    """

    window: jax.Array | None = None
    is_rotated: jax.Array | None = None

    @classmethod
    def of(cls, arch: Architecture, layers: range) -> LayerPattern:
        """Return the pattern of consecutive layers."""
        window = [_EVERYTHING if number in arch.global_layers else arch.window for number in layers]
        is_rotated = [int(number not in arch.unrotated_layers) for number in layers]
        return cls(
            None if arch.window is None else jnp.asarray(np.array(window, np.int32)),
            jnp.asarray(np.array(is_rotated, np.int32)) if arch.unrotated_layers else None,
        )

    def rotary_positions(self, positions_BL: jax.Array) -> jax.Array:
        """Return the positions that RoPE sees: 0, the rotation by no angle, in a layer without it."""
        return positions_BL if self.is_rotated is None else positions_BL * self.is_rotated

    def limit(self, mask: Mask) -> Mask:
        """Return the mask with this layer's window."""
        return mask if self.window is None else dataclasses.replace(mask, window=self.window)
