"""Linear maps without biases, the gate between them, norms with a scale, the shared embedding."""

from __future__ import annotations

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.models.architecture import Architecture
from palm_jax.models.matmuls import matmul, product


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation's logical axes to the mesh; outside of a run's rules it does nothing."""
    if not nn.get_logical_axis_rules():
        return x
    return nn.with_logical_constraint(x, axes, fallback=nn.spmd.RulesFallback.RAISE_ERROR)


def num_parts(axis: str) -> int:
    """How many devices a logical axis is split over, by a run's rules and mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return max((sizes.get(mesh_axis, 1) for name, mesh_axis in nn.get_logical_axis_rules() if name == axis), default=1)


class Projection(nn.Module):
    """Named linear maps of one input: y_i = x·W_i, computed as one matmul.

    Where their outputs are split over devices every map is a matmul of its own: a split of the
    joined result would not fall where theirs do, and would move activations between devices.

    This is the seam at which fine-tuning methods attach: a compact module that receives x
    and returns one array a name.

    Attributes:
      arch: the model's numbers.
      outputs: output shape by parameter name, e.g. {'q': (H, K), 'k': (G, K), 'v': (G, K)}.
      axes: logical axes of each output's dimensions, by the same names.
      input_axes: logical axes of the input dimensions; their product is contracted.
    """

    arch: Architecture
    outputs: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, tuple[str, ...]]
    input_axes: tuple[str, ...] = ('embed',)

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Maps x [B, L, *inputs] to a tuple of [B, L, *output], in the order of `outputs`."""
        num_inputs = len(self.input_axes)
        input_shape = x.shape[-num_inputs:]
        fan_in = math.prod(input_shape)
        x_BLD = x.reshape(*x.shape[:-num_inputs], fan_in).astype(self.arch.dtype)
        init = nn.initializers.normal(stddev=fan_in**-0.5)  # the paper's N(0, 1/√fan_in)
        kernels = []
        for name, shape in self.outputs.items():
            kernel = self.param(
                name,
                nn.with_logical_partitioning(init, (*self.input_axes, *self.axes[name])),
                (*input_shape, *shape),
                self.arch.param_dtype,
            )
            kernels.append(kernel.reshape(fan_in, -1).astype(self.arch.dtype))
        if self.arch.fuse_projections and max(num_parts(axis) for axes in self.axes.values() for axis in axes) == 1:
            widths = [kernel.shape[1] for kernel in kernels]
            product = matmul(x_BLD, jnp.concatenate(kernels, axis=1))
            products = jnp.split(product, [sum(widths[: i + 1]) for i in range(len(widths) - 1)], axis=-1)
        else:
            products = [matmul(x_BLD, kernel) for kernel in kernels]
        return tuple(y.reshape(*y.shape[:-1], *shape) for y, shape in zip(products, self.outputs.values(), strict=True))


@jax.custom_vjp
def swish_times(gate: jax.Array, up: jax.Array) -> jax.Array:
    """Swish(gate) ⊙ up = gate ⊙ up / (1 + e^−gate), computed in float32, in the dtype of its inputs.

    The quotient comes last, so that a CPU keeps the result for the backward pass: a product at the
    end it would compute anew inside of that pass's transposition, askew and ten times as slow. The
    gradient is written out for the same reason, and as that of the quotient overflows:
    ∂up = dh ⊙ gate ⊙ s and ∂gate = dh ⊙ up ⊙ s ⊙ (1 + gate ⊙ (1 − s)), with s = sigmoid(gate).
    """
    g, u = gate.astype(jnp.float32), up.astype(jnp.float32)
    return (g * u / (1 + jnp.exp(-g))).astype(gate.dtype)


def _swish_times_backward(residuals, dh):
    gate, up = residuals
    g, u, dh = (x.astype(jnp.float32) for x in (gate, up, dh))
    s = jax.nn.sigmoid(g)
    return (dh * u * s * (1 + g * (1 - s))).astype(gate.dtype), (dh * g * s).astype(up.dtype)


swish_times.defvjp(lambda gate, up: (swish_times(gate, up), (gate, up)), _swish_times_backward)


class Norm(nn.Module):
    """LayerNorm or RMSNorm with a scale and without a bias, computed in float32.

    LayerNorm: scale · (x − mean x) / √(var x + ε). RMSNorm leaves out the mean.
    """

    arch: Architecture
    axes: tuple[str, ...] = ('embed',)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises the last axis; the result has the compute dtype."""
        scale = self.param(
            'scale',
            nn.with_logical_partitioning(nn.initializers.ones, self.axes),
            (x.shape[-1],),
            self.arch.param_dtype,
        )
        x = x.astype(jnp.float32)
        if self.arch.norm == 'layernorm':
            x = x - x.mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.arch.norm_epsilon)
        return (x * inverse * scale.astype(jnp.float32)).astype(self.arch.dtype)


class Embed(nn.Module):
    """The matrix shared by input and output: rows are looked up, and logits are h·Eᵀ / √D."""

    arch: Architecture

    def setup(self) -> None:
        self.embedding = self.param(
            'embedding',
            nn.with_logical_partitioning(nn.initializers.normal(stddev=1.0), ('vocab', 'embed')),
            (self.arch.vocab_size, self.arch.d_model),
            self.arch.param_dtype,
        )

    def __call__(self, tokens_BL: jax.Array) -> jax.Array:
        """[B, L] token ids to [B, L, D]."""
        x_BLD = jnp.take(self.embedding, tokens_BL, axis=0).astype(self.arch.dtype)
        if num_parts('embed') > 1:  # a device looks its own columns up for all tokens, then gets its own tokens' rows
            x_BLD = constrain(x_BLD, None, None, 'embed')
        return constrain(x_BLD, 'act_batch', 'act_length', 'act_embed')

    def attend(self, h_BLD: jax.Array) -> jax.Array:
        """[B, L, D] features to float32 [B, L, V] logits."""
        dtype = self.arch.dtype
        return product(h_BLD.astype(dtype), self.embedding.astype(dtype), contract=1) * self.arch.output_scale
