"""The gate of GEGLU (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def geglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """GELU(gate) ⊙ up with the tanh approximation of GELU, computed in float32.

    Args:
      gate: array of any shape, float32 or half precision.
      up: array of the same shape and dtype.

    Returns:
      Array of the shape and dtype of the inputs.
    """
    return (jax.nn.gelu(gate.astype(jnp.float32), approximate=True) * up.astype(jnp.float32)).astype(gate.dtype)
