"""Rotary position embedding (RoFormer, arXiv 2104.09864)."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.lax import platform_dependent

from palm_jax.models.kernels.memory_order import row_major


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Longer wavelengths, for contexts longer than those of pretraining.

    Attributes:
      factor: factor of the wavelengths above `longest_kept`.
      fully_scaled: wavelength in tokens above which the whole factor applies.
      longest_kept: wavelength in tokens below which none does; between both the frequencies are interpolated linearly
        in the inverse wavelength, as in Llama 3.1. 0 scales all wavelengths.
    """

    factor: float
    fully_scaled: float = 0.0
    longest_kept: float = 0.0

    def __call__(self, frequencies_k: jax.Array) -> jax.Array:
        """Return the scaled frequencies, in radians per token."""
        scaled_k = frequencies_k / self.factor
        if not self.longest_kept:
            return scaled_k
        inverse_k = frequencies_k / (2 * math.pi)  # 1 / wavelength
        short, long = 1 / self.longest_kept, 1 / self.fully_scaled
        share_k = jnp.clip((inverse_k - long) / (short - long), 0.0, 1.0)
        return share_k * frequencies_k + (1 - share_k) * scaled_k


def rotate(
    x_BLHK: jax.Array,
    positions_BL: jax.Array,
    theta: float = 10_000.0,
    xpos: float = 0.0,
    scaling: RopeScaling | None = None,
) -> jax.Array:
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
      scaling: change of the wavelengths; None changes none.

    Returns:
      The rotated array in x's dtype; angles are computed in float32.
    """
    # A CPU keeps the sines in memory; otherwise it would recompute them for every row and head (BENCHMARKS.md).
    sin_cos = _sin_cos(x_BLHK.shape[-1] // 2, positions_BL, theta, xpos, scaling)
    sin_cos = platform_dependent(*sin_cos, cpu=lambda *xs: tuple(map(row_major, xs)), default=lambda *xs: xs)
    return _rotate_pairs(x_BLHK, *sin_cos)


def reference_rotate(x_BLHK: jax.Array, positions_BL: jax.Array, theta: float = 10_000.0, xpos: float = 0.0):
    """`rotate` without a layout of the sines."""
    return _rotate_pairs(x_BLHK, *_sin_cos(x_BLHK.shape[-1] // 2, positions_BL, theta, xpos))


def _sin_cos(
    half: int, positions_BL: jax.Array, theta: float, xpos: float, scaling: RopeScaling | None = None
) -> tuple[jax.Array, jax.Array]:
    """Sines and cosines [B, L, 1, K/2], scaled by xPos."""
    frequencies_k = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if scaling is not None:
        frequencies_k = scaling(frequencies_k)
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
