"""Weights in int8 with a scale a row of outputs: a quarter of float32's memory, for a little loss."""

from __future__ import annotations

import functools
import re
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Int8:
    """values · scale stands for a weight; `scale` has the weight's shape with 1 along its inputs."""

    values: jax.Array
    scale: jax.Array


def quantized(path: str, weight: jax.Array) -> jax.Array | Int8:
    """A parameter as `Int8`, symmetric and rounded to nearest, where it is a large matrix of the base.

    Every output of a linear map has a scale of its own, and every row of the embedding; norms,
    heads and what fine-tuning methods add stay as they are.

    Args:
      path: of the parameter, `stack/attn/qkv/q`.
      weight: of one layer.
    """
    inputs = _input_axes(path, weight.ndim)
    return weight if inputs is None else _rounded(weight, inputs)


@functools.partial(jax.jit, static_argnums=1)
def _rounded(weight: jax.Array, inputs: tuple[int, ...]) -> Int8:
    x = weight.astype(jnp.float32)
    scale = jnp.maximum(jnp.max(jnp.abs(x), axis=inputs, keepdims=True), 1e-30) / 127
    return Int8(jnp.round(x / scale).astype(jnp.int8), scale)


def _input_axes(path: str, ndim: int) -> tuple[int, ...] | None:
    """The axes that a product with this parameter sums over; None of what is no large matrix of the base."""
    if path == 'embed/embedding':
        return (1,)
    if re.fullmatch(r'stack/(attn/qkv/[qkv]|mlp/in/(gate|up))', path):
        return (0,)
    return tuple(range(ndim - 1)) if re.fullmatch(r'stack/(attn|mlp)/out/kernel', path) else None


def dequantized(params: Any, dtype: str) -> Any:
    """The parameters as arrays of the compute dtype where they are `Int8`, the others as they are."""

    def weight(leaf):
        if not isinstance(leaf, Int8):
            return leaf
        return (leaf.values.astype(jnp.float32) * leaf.scale).astype(dtype)

    return jax.tree.map(weight, params, is_leaf=lambda leaf: isinstance(leaf, Int8))
