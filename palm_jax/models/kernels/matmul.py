"""Matrix products, each in the orientation that its platform computes fastest.

All of them accumulate in float32. GPUs and TPUs write a result in half precision directly. On a GPU, float32 would be
read and converted by another kernel; on TPUs, partial results of several devices are then added before they are
exchanged, and once instead of for each product (BENCHMARKS.md). Weights' gradients stay float32 on TPUs until devices
have added theirs, unless `reducing_in` says otherwise. On CPUs, above all in half precision, XLA has fast kernels only
for row-major operands and a row-major float32 result; other layouts run at a third of the speed or not at all. The CPU
variants therefore transpose operands in memory and pin results to row-major order (measurements: BENCHMARKS.md).
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.lax import platform_dependent
from jax.typing import DTypeLike

from palm_jax.models.kernels.gpu import on_gpus
from palm_jax.models.kernels.memory_order import row_major

_reduce_dtype: contextvars.ContextVar[DTypeLike | None] = contextvars.ContextVar('reduce_dtype', default=None)


@contextlib.contextmanager
def reducing_in(dtype: DTypeLike | None) -> Iterator[None]:
    """A context in which each device writes its part of a weight's gradient, which devices then add, in `dtype`.

    None leaves it to the platform.
    """
    token = _reduce_dtype.set(dtype)
    try:
        yield
    finally:
        _reduce_dtype.reset(token)


_NARROW = 8  # times that y is narrower than x, from which y is the operand that is transposed


@jax.custom_vjp
def matmul(x_XD: jax.Array, w_DF: jax.Array) -> jax.Array:
    """x·W with the value and gradient of `x @ w`, accumulated in float32.

    Args:
      x_XD: array with any number of leading axes.
      w_DF: matrix of the same dtype.

    Returns:
      [..., F] in the dtype of x.
    """
    return product(x_XD, w_DF, dtype=x_XD.dtype)


def _matmul_forward(x_XD, w_DF):
    """Keeps only what the gradients need: a frozen W needs no x, and an x without a gradient needs no W."""
    residuals = (x_XD.value if w_DF.perturbed else None, w_DF.value if x_XD.perturbed else None)
    return matmul(x_XD.value, w_DF.value), residuals


def _matmul_backward(residuals, dy_XF):
    x_XD, w_DF = residuals
    if isinstance(dy_XF, SymbolicZero):
        return None, None
    dx_XD = None if w_DF is None else product(dy_XF, w_DF, contract=1, dtype=w_DF.dtype)
    dw_DF = None if x_XD is None else _weight_gradient(x_XD, dy_XF)
    return dx_XD, dw_DF


def _weight_gradient(x_XD, dy_XF):
    if (dtype := _reduce_dtype.get()) is None:
        return transposed_product(x_XD, dy_XF, dtype=x_XD.dtype)
    return reference_transposed_product(x_XD, dy_XF, dtype=dtype).astype(x_XD.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward, symbolic_zeros=True)


def product(
    x: jax.Array, y: jax.Array, contract: int = 0, batched: bool = False, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """x·y, or x·yᵀ with `contract=1`: contract the last axis of x with one axis of the matrix y.

    Args:
      x: [..., D]; batched: [B, X, D].
      y: [D, F], or [F, D] with `contract=1`; batched: with a leading B.
      contract: axis of y to contract, not counting B.
      batched: multiply matrix by matrix over the leading axis of both.
      dtype: dtype of the result; sums are accumulated in float32 and rounded once.

    Returns:
      [..., F] in `dtype`.
    """
    plain = functools.partial(reference_product, contract=contract, batched=batched)
    if x.dtype == jnp.float32:  # fast in every layout
        return plain(x, y).astype(dtype)
    on_cpu = lambda x, y: row_major(plain(x, y)).astype(dtype)  # noqa: E731
    return platform_dependent(x, y, cpu=on_cpu, default=functools.partial(plain, dtype=dtype))


def reference_product(
    x: jax.Array, y: jax.Array, contract: int = 0, batched: bool = False, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """`product` as a single contraction, without a layout."""
    batch = ((0,), (0,)) if batched else ((), ())
    dimensions = (((x.ndim - 1,), (contract + batched,)), batch)
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=dtype)


def transposed_product(
    x_XD: jax.Array, y_XF: jax.Array, batched: bool = False, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """xᵀ·y, summed over all leading axes, or over all but the first.

    Args:
      x_XD: array with one or more leading axes X.
      y_XF: array with the same leading axes and dtype.
      batched: keep the first axis B.
      dtype: dtype of the result, see `product`.

    Returns:
      [D, F] in `dtype`; batched: [B, D, F].
    """
    plain = functools.partial(reference_transposed_product, batched=batched)
    return platform_dependent(
        x_XD,
        y_XF,
        cpu=lambda x_XD, y_XF: _transpose_and_multiply(x_XD, y_XF, batched).astype(dtype),
        default=lambda x_XD, y_XF: plain(x_XD, y_XF).astype(dtype),
        **on_gpus(functools.partial(plain, dtype=dtype)),
    )


def reference_transposed_product(
    x_XD: jax.Array, y_XF: jax.Array, batched: bool = False, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """`transposed_product` as a single contraction."""
    summed, batch = tuple(range(batched, x_XD.ndim - 1)), tuple(range(batched))
    dimensions = ((summed, summed), (batch, batch))
    return jax.lax.dot_general(x_XD, y_XF, dimensions, preferred_element_type=dtype)


def _transpose_and_multiply(x_XD, y_XF, batched):
    """The variant for CPUs: an operand is transposed in memory, so that the product has row-major operands.

    That is x, which is faster than (yᵀ·x)ᵀ unless y is much narrower, as for the low-rank matrices of LoRA.
    """
    leading = x_XD.shape[:batched]
    x_XD = x_XD.reshape(*leading, -1, x_XD.shape[-1])
    y_XF = y_XF.reshape(*leading, -1, y_XF.shape[-1])
    if y_XF.shape[-1] * _NARROW <= x_XD.shape[-1]:
        return jnp.swapaxes(product(row_major(jnp.swapaxes(y_XF, -1, -2)), x_XD, batched=batched), -1, -2)
    return product(row_major(jnp.swapaxes(x_XD, -1, -2)), y_XF, batched=batched)
