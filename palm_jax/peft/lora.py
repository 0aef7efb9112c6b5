"""LoRA (Hu et al., arXiv 2106.09685), rsLoRA (arXiv 2312.03732) and DoRA (arXiv 2402.09353)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, Pattern, Rate, checked
from palm_jax.models.architecture import Architecture
from palm_jax.models.kernels.matmul import matmul
from palm_jax.models.quantization import dequantize
from palm_jax.peft.method import Method, change_targets, new_param


@checked
@dataclasses.dataclass(frozen=True)
class LoRA(Method):
    """W + scale · A·B with A [D, R] and B [R, F], scale = α / R; W itself is not trained.

    A begins uniform within ±1/√D (the authors' code), B at zero, so the start equals the base.

    Attributes:
      rank: rank R of A·B.
      alpha: numerator α of the scale.
      targets: regular expression of the kernels that are adapted.
      dropout_rate: dropout rate on the input of A.
      use_rslora: whether scale = α / √R (rsLoRA).
      use_dora: whether the lengths m of the columns are learned, too (DoRA):
        y = m / ‖W + ΔW‖ · x·(W + ΔW), with the norm constant in the gradient; m begins as ‖W‖.
    """

    rank: Annotated[int, AtLeast(1)] = 8
    alpha: Annotated[float, Above(0)] = 16.0
    targets: Pattern = 'stack/(attn|mlp)/.*'
    dropout_rate: Rate = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    diagonal: bool = dataclasses.field(default=False, init=False)
    name: str = dataclasses.field(default='lora', init=False)

    @property
    def scale(self) -> float:
        """Factor of A·B."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def reads_kernels(self) -> bool:
        """DoRA does, for the lengths of their columns."""
        return self.use_dora

    @property
    def init_a(self) -> Callable[..., jax.Array]:
        """Initializer of A."""
        return _uniform

    @property
    def init_b(self) -> Callable[..., jax.Array]:
        """Initializer of B."""
        return nn.initializers.zeros

    def intercept(self, next_fun, args, kwargs, context):
        def change(projection, outputs):
            child = LowRank(projection.arch, self, projection.axes, projection.input_axes, name=self.name)
            kernels = {n: nn.unbox(projection.get_variable('params', n)) for n in outputs if self.use_dora}
            return child(args[0], outputs, kernels)

        return change_targets(next_fun, args, kwargs, context, self.targets, change)

    def init_from_base(self, siblings, params):
        """Start DoRA's lengths as those of the kernels' columns."""
        lengths = {
            f'{name}_length': jnp.linalg.norm(_flat(kernel, params[f'{name}_a']), axis=1)
            .reshape(params[f'{name}_length'].shape)
            .astype(kernel.dtype)
            for name, kernel in siblings.items()
            if f'{name}_length' in params
        }
        return params | lengths

    def merge(self, kernels, params):
        """Return W + scale·A·B, for DoRA with the learned lengths."""

        def merged(name, kernel):
            if f'{name}_a' not in params:
                return kernel
            a_NDR, b_NRF = _flat(params[f'{name}_a'], params[f'{name}_a']), params[f'{name}_b']
            if self.diagonal:
                a_NDR = a_NDR * params[f'{name}_e'][:, None]
            b_NRF = b_NRF.reshape(*b_NRF.shape[:2], -1).astype(jnp.float32)
            delta_NDF = jnp.einsum('NDR,NRF->NDF', a_NDR, b_NRF, precision='highest')
            total_NDF = _flat(kernel, params[f'{name}_a']) + self.scale * delta_NDF
            if self.use_dora:
                length_N1F = params[f'{name}_length'].reshape(kernel.shape[0], 1, -1)
                total_NDF *= length_N1F / jnp.linalg.norm(total_NDF, axis=1, keepdims=True)
            return total_NDF.reshape(kernel.shape).astype(kernel.dtype)

        return {name: merged(name, kernel) for name, kernel in kernels.items()}


class LowRank(nn.Module):
    """A and B, and for DoRA the lengths, of some outputs of one projection."""

    arch: Architecture
    lora: LoRA
    axes: Mapping[str, tuple[str, ...]]
    input_axes: tuple[str, ...]

    @nn.compact
    def __call__(self, x: jax.Array, outputs: dict[str, jax.Array], kernels: dict[str, jax.Array]):
        """Return the adapted outputs of x [..., *inputs], by name."""
        lora, dtype, num_inputs = self.lora, self.arch.dtype, len(self.input_axes)
        input_shape = x.shape[-num_inputs:]
        fan_in = math.prod(input_shape)
        x_BLD = x.reshape(*x.shape[:-num_inputs], fan_in).astype(dtype)
        training = lora.dropout_rate > 0 and self.has_rng('dropout') and not self.is_initializing()
        x_BLD = nn.Dropout(lora.dropout_rate, deterministic=not training)(x_BLD)
        changed = {}
        for name, y in outputs.items():
            axes = self.axes[name]
            shape = y.shape[x_BLD.ndim - 1 :]
            a = new_param(self, f'{name}_a', lora.init_a, (*input_shape, lora.rank), (*self.input_axes, 'rank'))
            b = new_param(self, f'{name}_b', lora.init_b, (lora.rank, *shape), ('rank', *axes))
            a_DR, b_RF = a.reshape(fan_in, -1).astype(dtype), b.reshape(lora.rank, -1).astype(dtype)
            if lora.diagonal:
                a_DR *= new_param(self, f'{name}_e', nn.initializers.zeros, (lora.rank,), ('rank',)).astype(dtype)
            y = y + matmul(matmul(x_BLD, a_DR) * lora.scale, b_RF).reshape(y.shape)
            if lora.use_dora:
                length = new_param(self, f'{name}_length', nn.initializers.ones, shape, axes)
                kernel_DF = dequantize(kernels[name], jnp.float32).reshape(fan_in, -1)
                total_DF = kernel_DF + lora.scale * matmul(a_DR, b_RF).astype(jnp.float32)
                now = jax.lax.stop_gradient(jnp.linalg.norm(total_DF, axis=0)).reshape(shape)
                y = (y * (length / now)).astype(y.dtype)
            changed[name] = y
        return changed


def _uniform(rng, shape, dtype):
    """Draw uniformly within ±1/√fan_in: torch's `kaiming_uniform_(a=√5)`."""
    limit = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(rng, shape, dtype, -limit, limit)


def _flat(kernel: jax.Array, a: jax.Array) -> jax.Array:
    """Reshape a stacked kernel [N, *inputs, *outputs] to float32 [N, D, F]; `a` is [N, *inputs, R]."""
    fan_in = math.prod(a.shape[1:-1])
    return kernel.reshape(kernel.shape[0], fan_in, -1).astype(jnp.float32)
