"""How the linear maps that stay frozen in fine-tuning are kept in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from typing import Any, Literal

import flax.linen as nn
import jax

from palm_jax.errors import UserError
from palm_jax.models.linear_maps import input_axes
from palm_jax.models.quantization import QuantizedType, is_quantized, quantize
from palm_jax.parameters import path_name

BaseWeights = Literal['stored', 'int8', 'nf4']


def quantize_base(base_weights: BaseWeights, trained: Any, frozen: Any) -> Any:
    """Return the frozen parameters as they are kept in memory during training.

    Args:
      base_weights: see `loop.train`.
      trained: trained parameters; a stacked kernel of which some layers are trained is not quantized.
      frozen: frozen parameters, boxed or not.

    Raises:
      UserError: nothing is left to be quantized.
    """
    if base_weights == 'stored':
        return frozen
    partly = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained)}
    quantized = quantize_kernels(frozen, base_weights, partly)
    if not any(map(is_quantized, jax.tree.leaves(quantized, is_leaf=is_quantized))):
        raise UserError(
            f"BASE_WEIGHTS = '{base_weights}' quantizes the kernels that are frozen in all layers; this run has none. "
            "Set BASE_WEIGHTS = 'stored', or a method that leaves the kernels alone: "
            '--gin_file=gin/peft/lora.gin.'
        )
    return quantized


def quantize_kernels(frozen: Any, qtype: QuantizedType, kept: Container[str] = ()) -> Any:
    """Return frozen parameters with the linear maps of the blocks quantized.

    Args:
      frozen: tree of stacked parameters, as arrays or boxed with their logical axes.
      qtype: see `quantize`.
      kept: paths of parameters that stay as they are.
    """

    def change(key_path: Any, leaf: Any) -> Any:
        path, value = path_name(key_path), leaf.value if isinstance(leaf, nn.Partitioned) else leaf
        inputs = input_axes(path, value.ndim - 1) if path.startswith('stack/') else None
        if inputs is None or path in kept:
            return leaf
        stacked = tuple(axis + 1 for axis in inputs)
        rounded = quantize(value, stacked, qtype)
        if not isinstance(leaf, nn.Partitioned):
            return rounded
        # A scale is small: it is split only along the axes that it has in full.
        axes = tuple(
            name if size == whole else None
            for name, size, whole in zip(leaf.names, rounded.scale.shape, value.shape, strict=True)
        )
        return dataclasses.replace(
            rounded, values=leaf.replace(value=rounded.values), scale=leaf.replace(value=rounded.scale, names=axes)
        )

    return jax.tree_util.tree_map_with_path(change, frozen, is_leaf=lambda x: isinstance(x, nn.Partitioned))
