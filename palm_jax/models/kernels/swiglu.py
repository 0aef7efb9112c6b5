"""The gate of SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_vjp
def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """Swish(gate) ⊙ up = gate ⊙ up / (1 + e^−gate), computed in float32.

    One implementation serves all platforms; its form is for CPUs. With the quotient last XLA keeps the result for the
    backward pass; a product at the end would be recomputed within the transposition there, ten times as slowly. The
    gradient is written out for the same reason, and because the quotient's own gradient overflows:
    ∂up = dh ⊙ gate ⊙ s and ∂gate = dh ⊙ up ⊙ s ⊙ (1 + gate ⊙ (1 − s)), with s = sigmoid(gate).

    Args:
      gate: array of any shape, float32 or half precision.
      up: array of the same shape and dtype.

    Returns:
      Array of the shape and dtype of the inputs.
    """
    g, u = gate.astype(jnp.float32), up.astype(jnp.float32)
    return (g * u / (1 + jnp.exp(-g))).astype(gate.dtype)


def _backward(residuals, dh):
    gate, up = residuals
    g, u, dh = (x.astype(jnp.float32) for x in (gate, up, dh))
    s = jax.nn.sigmoid(g)
    return (dh * u * s * (1 + g * (1 - s))).astype(gate.dtype), (dh * g * s).astype(up.dtype)


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _backward)


def reference_swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """`swiglu` as the paper writes it."""
    return (jax.nn.silu(gate.astype(jnp.float32)) * up.astype(jnp.float32)).astype(gate.dtype)
