"""Weights in int8 with a scale a row of outputs: a quarter of float32's memory, for a little loss."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from palm_jax.parameters import path_name


@flax.struct.dataclass
class Int8:
    """values · scale stands for a weight; `scale` has the weight's shape with 1 along its inputs."""

    values: jax.Array
    scale: jax.Array


def quantized(params: Any) -> Any:
    """Parameters whose large matrices are `Int8`, symmetric, rounded to nearest.

    Every output of a linear map has a scale of its own, and every row of the embedding; norms,
    heads and what fine-tuning methods add stay as they are.

    Args:
      params: laid out, see `decoding.laid_out`.
    """
    return jax.jit(lambda params: jax.tree_util.tree_map_with_path(_quantized, params))(params)


def _quantized(path: tuple[Any, ...], weight: jax.Array) -> jax.Array | Int8:
    inputs = _input_axes(path_name(path), weight.ndim)
    if inputs is None:
        return weight
    x = weight.astype(jnp.float32)
    scale = jnp.maximum(jnp.max(jnp.abs(x), axis=inputs, keepdims=True), 1e-30) / 127
    return Int8(jnp.round(x / scale).astype(jnp.int8), scale)


def _input_axes(path: str, ndim: int) -> tuple[int, ...] | None:
    """The axes that a product with this parameter sums over; None of what is no large matrix of the base."""
    layer, _, name = path.partition('/')[2].partition('/')
    if path == 'embed/embedding':
        return (1,)
    if path.startswith('stack/') and layer.isdigit():
        if name in ('attn/qkv/q', 'attn/qkv/k', 'attn/qkv/v', 'mlp/in/gate', 'mlp/in/up'):
            return (0,)
        if name in ('attn/out/kernel', 'mlp/out/kernel'):
            return tuple(range(ndim - 1))
    return None


def dequantized(params: Any, dtype: str) -> Any:
    """The parameters as arrays of the compute dtype where they are `Int8`, the others as they are."""

    def weight(leaf):
        if not isinstance(leaf, Int8):
            return leaf
        return (leaf.values.astype(jnp.float32) * leaf.scale).astype(dtype)

    return jax.tree.map(weight, params, is_leaf=lambda leaf: isinstance(leaf, Int8))
