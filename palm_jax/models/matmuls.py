"""Matrix products, each in the orientation that its device computes fastest.

All accumulate in float32. CPUs need care, in half precision above all: XLA has fast kernels
for row-major operands and a float32 result, and for other layouts falls back to a third of
the speed or to none at all. So there operands are transposed in memory, not by reading them
askew, and results are pinned to row-major (BENCHMARKS.md has the figures).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental.layout import Layout, with_layout_constraint

from palm_jax.models import target


@jax.custom_vjp
def matmul(x_XD: jax.Array, w_DF: jax.Array) -> jax.Array:
    """x·W for x of any leading shape, with the value and gradient of `x @ w`; both have one dtype."""
    return product(x_XD, w_DF).astype(x_XD.dtype)


def _matmul_forward(x_XD, w_DF):
    """Keeps only what a gradient will be asked for: a frozen W needs no x, an input nothing depends on no W."""
    residuals = (x_XD.value if w_DF.perturbed else None, w_DF.value if x_XD.perturbed else None)
    return matmul(x_XD.value, w_DF.value), residuals


def _matmul_backward(residuals, dy_XF):
    x_XD, w_DF = residuals
    if isinstance(dy_XF, SymbolicZero):
        return None, None
    dx_XD = None if w_DF is None else product(dy_XF, w_DF, contract=1).astype(w_DF.dtype)
    dw_DF = None if x_XD is None else transposed_product(x_XD, dy_XF).astype(x_XD.dtype)
    return dx_XD, dw_DF


matmul.defvjp(_matmul_forward, _matmul_backward, symbolic_zeros=True)


def product(x: jax.Array, y: jax.Array, contract: int = 0, batched: bool = False) -> jax.Array:
    """Contracts the last axis of x with an axis of the matrix y: x·y or, with `contract=1`, x·yᵀ.

    Args:
      x: [..., D], or batched [B, X, D].
      y: [D, F] or [F, D]; batched, with a leading B.
      contract: the axis of y, not counting B.
      batched: multiplies matrix by matrix over the leading axis of both.

    Returns:
      float32 [..., F].
    """
    batch = ((0,), (0,)) if batched else ((), ())
    dimensions = (((x.ndim - 1,), (contract + batched,)), batch)
    return _row_major(jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32), x.dtype)


def transposed_product(x_XD: jax.Array, y_XF: jax.Array, batched: bool = False) -> jax.Array:
    """xᵀ·y over all leading axes, float32 [D, F]; batched, over all but the first: [B, D, F]."""
    if target.platform() != 'cpu':
        summed, batch = tuple(range(batched, x_XD.ndim - 1)), tuple(range(batched))
        dimensions = ((summed, summed), (batch, batch))
        return jax.lax.dot_general(x_XD, y_XF, dimensions, preferred_element_type=jnp.float32)
    leading = x_XD.shape[:batched]
    x_XD = x_XD.reshape(*leading, -1, x_XD.shape[-1])
    y_XF = y_XF.reshape(*leading, -1, y_XF.shape[-1])
    x_DX = jnp.swapaxes(x_XD, -1, -2)
    return product(with_layout_constraint(x_DX, Layout(tuple(range(x_DX.ndim)))), y_XF, batched=batched)


def _row_major(result: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """A half-precision product whose result is laid out otherwise has no kernel on CPUs and fails."""
    if target.platform() != 'cpu' or dtype == jnp.float32:
        return result
    return with_layout_constraint(result, Layout(tuple(range(result.ndim))))
