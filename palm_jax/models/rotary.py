"""Rotary position embedding (RoFormer, arXiv 2104.09864)."""

import jax
import jax.numpy as jnp


def rotate(x_BLHK: jax.Array, positions_BL: jax.Array, theta: float = 10_000.0) -> jax.Array:
    """Turns feature pairs (i, i + K/2) of every head by the angle position · theta^(-2i/K).

    Pairing a head's two halves instead of neighbours only permutes the columns of the query
    and key kernels and keeps memory access contiguous; exporters permute back.

    Args:
      x_BLHK: queries or keys, any number of heads.
      positions_BL: int32; B may be 1.
      theta: base of the geometric series of wavelengths.

    Returns:
      The rotated array in x's dtype; angles are computed in float32.
    """
    half = x_BLHK.shape[-1] // 2
    frequencies_k = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_BL1k = positions_BL[:, :, None, None].astype(jnp.float32) * frequencies_k
    sin, cos = jnp.sin(angles_BL1k), jnp.cos(angles_BL1k)
    first, second = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BLHK.dtype)
