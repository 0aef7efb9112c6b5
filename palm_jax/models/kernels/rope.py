"""Rotary position embedding (RoFormer, arXiv 2104.09864)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import platform_dependent

from palm_jax.models.kernels.memory_order import row_major


def rotate(x_BLHK: jax.Array, positions_BL: jax.Array, theta: float = 10_000.0, xpos: float = 0.0) -> jax.Array:
    """Rotate feature pairs (i, i + K/2) of every head by the angle position · theta^(-2i/K).

    Pairing a head's two halves instead of neighbours only permutes the columns of the query and key kernels, and keeps
    memory access contiguous; exporters permute them back.

    Args:
      x_BLHK: queries or keys with any number of heads.
      positions_BL: int32 positions; B may be 1.
      theta: base of the geometric series of wavelengths.
      xpos: exponent per position of xPos (arXiv 2212.10554), which multiplies pair i by
        ((2i + 0.4·K) / (1.4·K))^(position · xpos). Keys take the opposite sign of queries, so that scores depend only
        on distances. 0 is plain RoPE.

    Returns:
      The rotated array in x's dtype; angles are computed in float32.
    """
    # A CPU keeps the sines in memory; otherwise it would recompute them for every row and head (BENCHMARKS.md).
    sin_cos = _sin_cos(x_BLHK.shape[-1] // 2, positions_BL, theta, xpos)
    sin_cos = platform_dependent(*sin_cos, cpu=lambda *xs: tuple(map(row_major, xs)), default=lambda *xs: xs)
    return _rotate_pairs(x_BLHK, *sin_cos)


def reference_rotate(x_BLHK: jax.Array, positions_BL: jax.Array, theta: float = 10_000.0, xpos: float = 0.0):
    """`rotate` without a layout of the sines."""
    return _rotate_pairs(x_BLHK, *_sin_cos(x_BLHK.shape[-1] // 2, positions_BL, theta, xpos))


def _sin_cos(half: int, positions_BL: jax.Array, theta: float, xpos: float) -> tuple[jax.Array, jax.Array]:
    """Sines and cosines [B, L, 1, K/2], scaled by xPos."""
    frequencies_k = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_BL1k = positions_BL[:, :, None, None].astype(jnp.float32) * frequencies_k
    sin, cos = jnp.sin(angles_BL1k), jnp.cos(angles_BL1k)
    if xpos:
        factors_k = (2 * jnp.arange(half, dtype=jnp.float32) + 0.8 * half) / (2.8 * half)
        powers_BL1k = factors_k ** (positions_BL[:, :, None, None].astype(jnp.float32) * xpos)
        sin, cos = sin * powers_BL1k, cos * powers_BL1k
    return sin, cos


def _rotate_pairs(x_BLHK: jax.Array, sin_BL1k: jax.Array, cos_BL1k: jax.Array) -> jax.Array:
    first, second = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate(
        [first * cos_BL1k - second * sin_BL1k, second * cos_BL1k + first * sin_BL1k],
        axis=-1,
    )
    return rotated.astype(x_BLHK.dtype)
