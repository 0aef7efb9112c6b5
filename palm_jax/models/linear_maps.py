"""The linear maps of a model: most of its weights, and what its products read."""

from __future__ import annotations

import re
from typing import Any

import jax
from jax.typing import DTypeLike

from palm_jax.models.quantization import is_quantized

# The maps of one input, in the order of their outputs, by the path of their `Projection`; see `layers.Projection`.
WITH_ONE_INPUT = {'stack/attn/qkv': ('q', 'k', 'v'), 'stack/mlp/in': ('gate', 'up')}
JOINED = 'joined'  # name of the matrix that holds all of them


def input_axes(path: str, ndim: int) -> tuple[int, ...] | None:
    """Return the axes that a product with one layer's parameter sums over; None if it is not a large matrix.

    Large are the linear maps of the blocks and the embedding, not norms, heads and the weights of fine-tuning methods.

    Args:
      path: parameter path, e.g. `stack/attn/qkv/q`.
      ndim: number of axes, without the layers axis.
    """
    if path in ('embed/embedding', 'embed/output'):
        return (1,)
    if re.fullmatch(r'stack/(attn/qkv/[qkv]|mlp/in/(gate|up))', path):
        return (0,)
    return tuple(range(ndim - 1)) if re.fullmatch(r'stack/(attn|mlp)/out/kernel', path) else None


def cast_linear_maps(params: Any, dtype: DTypeLike) -> Any:
    """Return parameters with the linear maps of the blocks in `dtype`, and all others unchanged.

    The embedding keeps its dtype, in which the gradients of a token's many occurrences are added.

    Args:
      params: parameters of a model, in full or in part.
      dtype: dtype of the computation.
    """

    def cast(key_path: Any, leaf: Any) -> Any:
        path = jax.tree_util.keystr(key_path, simple=True, separator='/')
        if is_quantized(leaf) or not path.startswith('stack/') or input_axes(path, leaf.ndim - 1) is None:
            return leaf
        return leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params, is_leaf=is_quantized)
