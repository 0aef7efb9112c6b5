"""Linear maps without biases, norms with a scale, the shared embedding."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from palm_jax.models.architecture import Architecture
from palm_jax.models.kernels.matmul import matmul, product
from palm_jax.models.linear_maps import JOINED
from palm_jax.models.quantization import dequantize, is_quantized
from palm_jax.models.sharding import Axes, constrain, gather, num_parts

PRODUCT = 'product'  # name of the outputs of linear maps, for rematerialization


def create_param(
    module: nn.Module,
    name: str,
    init: Callable[..., Any],
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    dtype: DTypeLike,
) -> jax.Array:
    """Create a parameter of a module that is boxed with its logical axes, and return its value.

    Args:
      module: module that is being applied or initialized.
      name: name of the parameter.
      init: initializer: a function of (key, shape, dtype).
      shape: shape of the parameter.
      axes: logical axis of each dimension; None is never split over devices.
      dtype: dtype of the parameter.
    """
    if module.has_variable('params', name):
        return nn.meta.unbox(module.get_variable('params', name))
    value: Any = module.param(name, nn.with_logical_partitioning(init, axes), shape, dtype)  # unboxed by `param`
    return value


class Projection(nn.Module):
    """Named linear maps of one input, y_i = x·W_i, computed as one matmul.

    For decoding the maps are stored side by side as one parameter, `joined` [D, ΣF], see `inference.decoding_weights`.
    Where outputs are split over devices, every map is a separate matmul: the shards of a joined result would not match
    those of its parts, so activations would move between devices.

    Fine-tuning methods attach here: a compact module that receives x and returns one array per name.

    Attributes:
      arch: architecture of the model.
      outputs: output shape by parameter name, e.g. {'q': (H, K), 'k': (G, K), 'v': (G, K)}.
      axes: logical axes of each output's dimensions, by parameter name.
      input_axes: logical axes of the input dimensions, all of which are contracted.
    """

    arch: Architecture
    outputs: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, tuple[str, ...]]
    input_axes: tuple[str, ...] = ('embed',)

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Map x [B, L, *inputs] to a tuple of arrays [B, L, *output], in the order of `outputs`."""
        num_inputs = len(self.input_axes)
        input_shape = x.shape[-num_inputs:]
        fan_in = math.prod(input_shape)
        x_BLD = x.reshape(*x.shape[:-num_inputs], fan_in).astype(self.arch.dtype)
        if self.has_variable('params', JOINED):
            joined_DF = dequantize(self.get_variable('params', JOINED), x_BLD.dtype)
            return self._split(matmul(x_BLD, joined_DF))
        init = nn.initializers.normal(stddev=fan_in**-0.5)  # the paper's N(0, 1/√fan_in)
        axes = [(*self.input_axes, *self.axes[name]) for name in self.outputs]
        kernels = [
            create_param(self, name, init, (*input_shape, *shape), axes_of_one, self.arch.param_dtype)
            for (name, shape), axes_of_one in zip(self.outputs.items(), axes, strict=True)
        ]
        is_whole = max(num_parts(axis) for axes in self.axes.values() for axis in axes) == 1
        multiply = functools.partial(_products, axes=axes, fuse=bool(self.arch.fuse_projections) and is_whole)
        # The backward pass makes the matrices again from the parameters. Kept from the forward pass, those of all
        # layers would be a copy of the model; unrolled, where both passes are one program, XLA makes them once.
        products = jax.checkpoint(multiply, prevent_cse=any(map(is_quantized, kernels)))(x_BLD, kernels)
        products = jax.tree.map(functools.partial(checkpoint_name, name=PRODUCT), products)
        if not isinstance(products, list):
            return self._split(products)
        return tuple(y.reshape(*y.shape[:-1], *shape) for y, shape in zip(products, self.outputs.values(), strict=True))

    def _split(self, y_BLF: jax.Array) -> tuple[jax.Array, ...]:
        """Cut a joined result into the outputs."""
        ends = list(itertools.accumulate(math.prod(shape) for shape in self.outputs.values()))
        parts = jnp.split(y_BLF, ends[:-1], axis=-1)
        return tuple(y.reshape(*y.shape[:-1], *shape) for y, shape in zip(parts, self.outputs.values(), strict=True))


def _products(
    x_BLD: jax.Array, kernels: Sequence[jax.Array], axes: Sequence[Axes], fuse: bool
) -> list[jax.Array] | jax.Array:
    """x·W for each kernel W as a matrix; fused, as one matmul whose result holds all of them."""
    whole = [gather(dequantize(kernel, x_BLD.dtype), *names) for kernel, names in zip(kernels, axes, strict=True)]
    matrices = [kernel.reshape(x_BLD.shape[-1], -1) for kernel in whole]
    if not fuse:
        return [matmul(x_BLD, matrix) for matrix in matrices]
    return matmul(x_BLD, jnp.concatenate(matrices, axis=1))


class Norm(nn.Module):
    """LayerNorm or RMSNorm with a scale and without a bias, computed in float32.

    LayerNorm: scale · (x − mean x) / √(var x + ε). RMSNorm omits the mean.
    """

    arch: Architecture
    axes: tuple[str, ...] = ('embed',)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize the last axis; the result has the compute dtype."""
        init = nn.initializers.ones
        scale = create_param(self, 'scale', init, (x.shape[-1],), self.axes, self.arch.param_dtype)
        x = x.astype(jnp.float32)
        if self.arch.norm == 'layernorm':
            x = x - x.mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.arch.norm_epsilon)
        return (x * inverse * scale.astype(jnp.float32)).astype(self.arch.dtype)


class Biases(nn.Module):
    """Biases of named arrays, which PaLM does not have; see `Architecture.qkv_bias`."""

    arch: Architecture
    axes: Mapping[str, tuple[str, ...]]

    @nn.compact
    def __call__(self, *outputs: jax.Array) -> tuple[jax.Array, ...]:
        """Return the arrays plus their biases, in the order of `axes`."""
        init, dtype = nn.initializers.zeros, self.arch.param_dtype
        return tuple(
            y + create_param(self, name, init, y.shape[-len(axes) :], axes, dtype).astype(y.dtype)
            for y, (name, axes) in zip(outputs, self.axes.items(), strict=True)
        )


class Embed(nn.Module):
    """The matrix E shared by input and output: rows are looked up, and logits are h·Eᵀ / √D.

    With `Architecture.shared_embedding = False` the logits have a matrix of their own, `output` [V, D].
    """

    arch: Architecture

    def setup(self) -> None:
        arch, init = self.arch, nn.initializers.normal(stddev=1.0)
        shape, axes = (arch.vocab_size, arch.d_model), ('vocab', 'embed')
        self.embedding = create_param(self, 'embedding', init, shape, axes, arch.param_dtype)
        if not arch.shared_embedding:
            self.output = create_param(self, 'output', init, shape, axes, arch.param_dtype)

    def __call__(self, tokens_BL: jax.Array) -> jax.Array:
        """Map token ids [B, L] to embeddings [B, L, D]."""
        x_BLD = jnp.take(self.embedding, tokens_BL, axis=0).astype(self.arch.dtype)
        if self.arch.embedding_scale != 1:
            x_BLD = x_BLD * jnp.asarray(self.arch.embedding_scale, self.arch.dtype)
        if num_parts('embed') > 1:  # each device looks up its columns of all tokens, then receives the rows of its own
            x_BLD = constrain(x_BLD, None, None, 'embed')
        return constrain(x_BLD, 'act_batch', 'act_length', 'act_embed')

    def attend(self, h_BLD: jax.Array) -> jax.Array:
        """Map features [B, L, D] to float32 logits [B, L, V]."""
        dtype, matrix_VD = self.arch.dtype, self.embedding if self.arch.shared_embedding else self.output
        return product(h_BLD.astype(dtype), matrix_VD.astype(dtype), contract=1) * self.arch.output_scale


def output_matrix(params: Mapping[str, Any]) -> jax.Array:
    """Return the matrix of the logits, [V, D], from the parameters of a model; see `Embed`."""
    return params['embed'].get('output', params['embed']['embedding'])
