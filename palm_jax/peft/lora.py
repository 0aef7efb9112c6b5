"""LoRA (Hu et al., arXiv 2106.09685), rsLoRA (arXiv 2312.03732) and DoRA (arXiv 2402.09353)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture
from palm_jax.models.kernels.matmul import matmul
from palm_jax.peft.method import Method, change_targets, new_param


@dataclasses.dataclass(frozen=True)
class LoRA(Method):
    """W + scale · A·B with A [D, R] and B [R, F], scale = α / R; W itself is not trained.

    A begins uniform within ±1/√D (the authors' code), B at zero, so the start equals the base.

    Attributes:
      rank: R.
      alpha: α.
      targets: regular expression of the kernels that get one.
      dropout_rate: on the input of A.
      rank_stabilized: scale = α / √R (rsLoRA).
      decomposed: learns the lengths m of the columns, too (DoRA): y = m / ‖W + ΔW‖ · x·(W + ΔW),
        the norm held constant in the gradient; m begins as ‖W‖.
    """

    rank: int = 8
    alpha: float = 8.0
    targets: str = 'stack/(attn|mlp)/.*'
    dropout_rate: float = 0.0
    rank_stabilized: bool = False
    decomposed: bool = False
    diagonal: bool = dataclasses.field(default=False, init=False)
    name: str = dataclasses.field(default='lora', init=False)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f'LoRA.rank is {self.rank}; it must be at least 1.')
        if not 0 <= self.dropout_rate < 1:
            raise UserError(f'LoRA.dropout_rate is {self.dropout_rate}; it must be in [0, 1).')

    @property
    def scale(self) -> float:
        """What multiplies A·B."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    @property
    def init_a(self) -> Callable[..., jax.Array]:
        """Of A."""
        return _uniform

    @property
    def init_b(self) -> Callable[..., jax.Array]:
        """Of B."""
        return nn.initializers.zeros

    def intercept(self, next_fun, args, kwargs, context):
        def change(projection, outputs):
            child = LowRank(projection.arch, self, projection.axes, projection.input_axes, name=self.name)
            kernels = {n: nn.unbox(projection.get_variable('params', n)) for n in outputs if self.decomposed}
            return child(args[0], outputs, kernels)

        return change_targets(next_fun, args, kwargs, context, self.targets, change)

    def start(self, beside, own):
        """DoRA's lengths begin as those of the kernels' columns."""
        lengths = {
            f'{name}_length': jnp.linalg.norm(_flat(kernel, own[f'{name}_a']), axis=1)
            .reshape(own[f'{name}_length'].shape)
            .astype(kernel.dtype)
            for name, kernel in beside.items()
            if f'{name}_length' in own
        }
        return own | lengths

    def merge(self, kernels, own):
        """W + scale·A·B, for DoRA with the learned lengths."""

        def merged(name, kernel):
            if f'{name}_a' not in own:
                return kernel
            a_NDR, b_NRF = _flat(own[f'{name}_a'], own[f'{name}_a']), own[f'{name}_b']
            if self.diagonal:
                a_NDR = a_NDR * own[f'{name}_e'][:, None]
            b_NRF = b_NRF.reshape(*b_NRF.shape[:2], -1).astype(jnp.float32)
            delta_NDF = jnp.einsum('NDR,NRF->NDF', a_NDR, b_NRF, precision='highest')
            total_NDF = _flat(kernel, own[f'{name}_a']) + self.scale * delta_NDF
            if self.decomposed:
                length_N1F = own[f'{name}_length'].reshape(kernel.shape[0], 1, -1)
                total_NDF *= length_N1F / jnp.linalg.norm(total_NDF, axis=1, keepdims=True)
            return total_NDF.reshape(kernel.shape).astype(kernel.dtype)

        return {name: merged(name, kernel) for name, kernel in kernels.items()}


class LowRank(nn.Module):
    """A and B, for DoRA the lengths too, of some outputs of one projection."""

    arch: Architecture
    lora: LoRA
    axes: Mapping[str, tuple[str, ...]]
    input_axes: tuple[str, ...]

    @nn.compact
    def __call__(self, x: jax.Array, outputs: dict[str, jax.Array], kernels: dict[str, jax.Array]):
        """The changed outputs of x, by name."""
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
            y = y + (matmul(matmul(x_BLD, a_DR), b_RF) * lora.scale).reshape(y.shape)
            if lora.decomposed:
                length = new_param(self, f'{name}_length', nn.initializers.ones, shape, axes)
                kernel_DF = kernels[name].reshape(fan_in, -1).astype(jnp.float32)
                total_DF = kernel_DF + lora.scale * matmul(a_DR, b_RF).astype(jnp.float32)
                now = jax.lax.stop_gradient(jnp.linalg.norm(total_DF, axis=0)).reshape(shape)
                y = (y * (length / now)).astype(y.dtype)
            changed[name] = y
        return changed


def _uniform(rng, shape, dtype):
    """torch's `kaiming_uniform_(a=√5)` of A: uniform within ±1/√fan_in."""
    limit = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(rng, shape, dtype, -limit, limit)


def _flat(kernel: jax.Array, a: jax.Array) -> jax.Array:
    """A stacked kernel [N, *inputs, *outputs] as float32 [N, D, F]; `a` [N, *inputs, R] tells which are inputs."""
    fan_in = math.prod(a.shape[1:-1])
    return kernel.reshape(kernel.shape[0], fan_in, -1).astype(jnp.float32)
