"""Weights of the base in fewer bits, rounded by qwix: int8 per output, or NF4 in blocks (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

QuantizedType = Literal['int8', 'nf4']
_BLOCK = 64  # inputs that share a scale in NF4, at most


@flax.struct.dataclass
class QuantizedWeight:
    """A rounded weight: values times scale, the values of NF4 being indices into its table of 16 numbers.

    Attributes:
      values: int8, or uint4 for NF4, the shape of the weight.
      scale: float32, the shape of the weight with its input axes divided by the number of inputs that share a scale.
      qtype: `int8` or `nf4`.
    """

    values: Any
    scale: Any
    qtype: QuantizedType = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.values.shape


def quantize(weight: jax.Array, inputs: tuple[int, ...], qtype: QuantizedType) -> QuantizedWeight:
    """Round a weight to nearest, symmetrically around 0.

    Args:
      weight: matrix with any number of axes, possibly stacked over layers.
      inputs: axes that a product with the weight sums over.
      qtype: `int8`: one scale for all inputs of an output. `nf4`: one scale for each block of at most 64 neighbors
        along the last input axis, of the largest size that divides the axis.
    """
    import qwix  # here, because it takes a third of a second and most runs quantize nothing

    *_, last = inputs
    blocks = {} if qtype == 'int8' else {last: _block_size(weight.shape[last])}
    shared = set(inputs) if qtype == 'int8' else {last}
    channels = [axis for axis in range(weight.ndim) if axis not in shared]
    rounded = qwix.quantize(weight.astype(jnp.float32), qtype, channelwise_axes=channels, tiled_axes=blocks)
    return QuantizedWeight(rounded.qvalue, rounded.scale, qtype)


def dequantize(weight: jax.Array | QuantizedWeight, dtype: DTypeLike) -> jax.Array:
    """Return a weight, quantized or not, in `dtype`."""
    if not isinstance(weight, QuantizedWeight):
        return weight.astype(dtype)
    import qwix

    return qwix.dequantize(qwix.QArray(weight.values, weight.scale, qtype=weight.qtype)).astype(dtype)


def dequantize_tree(params: Any, dtype: DTypeLike) -> Any:
    """Return parameters with the quantized ones in `dtype` and the others unchanged."""
    return jax.tree.map(lambda x: dequantize(x, dtype) if is_quantized(x) else x, params, is_leaf=is_quantized)


def is_quantized(leaf: Any) -> bool:
    """Whether a node of a tree of parameters is a quantized weight."""
    return isinstance(leaf, QuantizedWeight)


def _block_size(size: int) -> int:
    return next(block for block in range(min(_BLOCK, size), 0, -1) if size % block == 0)
