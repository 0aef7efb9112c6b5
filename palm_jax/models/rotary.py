"""Rotary position embedding (RoFormer, arXiv 2104.09864)."""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from palm_jax.models import target


def rotate(x_BLHK: jax.Array, positions_BL: jax.Array, theta: float = 10_000.0, xpos: float = 0.0) -> jax.Array:
    """Turns feature pairs (i, i + K/2) of every head by the angle position · theta^(-2i/K).

    Pairing a head's two halves instead of neighbours only permutes the columns of the query
    and key kernels and keeps memory access contiguous; exporters permute back.

    Args:
      x_BLHK: queries or keys, any number of heads.
      positions_BL: int32; B may be 1.
      theta: base of the geometric series of wavelengths.
      xpos: multiplies pair i by ((2i + 0.4·K) / (1.4·K))^(position · xpos) (arXiv 2212.10554); of keys
        with the other sign than of queries, so that scores depend on distances only.

    Returns:
      The rotated array in x's dtype; angles are computed in float32.
    """
    half = x_BLHK.shape[-1] // 2
    frequencies_k = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_BL1k = positions_BL[:, :, None, None].astype(jnp.float32) * frequencies_k
    sin, cos = jnp.sin(angles_BL1k), jnp.cos(angles_BL1k)
    if xpos:
        factors_k = (2 * jnp.arange(half, dtype=jnp.float32) + 0.8 * half) / (2.8 * half)
        powers_BL1k = factors_k ** (positions_BL[:, :, None, None].astype(jnp.float32) * xpos)
        sin, cos = sin * powers_BL1k, cos * powers_BL1k
    if target.platform() == 'cpu':  # kept, instead of computed anew for every row and head (BENCHMARKS.md)
        sin, cos = (with_layout_constraint(x, Layout(tuple(range(x.ndim)))) for x in (sin, cos))
    first, second = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BLHK.dtype)
