"""Prefix tuning (Li and Liang, arXiv 2101.00190)."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, checked
from palm_jax.models.architecture import Architecture
from palm_jax.models.attention import Memory
from palm_jax.models.kernels.rope import rotate
from palm_jax.peft.method import Method, new_param


@checked
@dataclasses.dataclass(frozen=True)
class Prefix(Method):
    """Learned keys and values before those of every text, in every layer.

    With one key head a prefix is small: 2·K numbers per token and layer. Its keys are rotated for
    the positions −P to −1, as those of a cache of P earlier tokens would be (as in peft).

    Attributes:
      length: number P of learned keys and values per layer.
      bottleneck_dim: width of the reparameterization tanh(e·W + b)·V + c with e [P, bottleneck_dim];
        0: keys and values are parameters themselves.
      init_std: standard deviation of keys and values at the start.
    """

    length: Annotated[int, AtLeast(1)] = 16
    bottleneck_dim: Annotated[int, AtLeast(0)] = 0
    init_std: Annotated[float, AtLeast(0)] = 0.02
    name: str = dataclasses.field(default='prefix', init=False)

    def intercept(self, next_fun, args, kwargs, context):
        memory = context.module
        if not isinstance(memory, Memory) or context.method_name != '__call__':
            return next_fun(*args, **kwargs)
        k_BMGK, v_BMGK, mask = next_fun(*args, **kwargs)
        k_1PGK, v_1PGK = KeysAndValues(memory.arch, self, name=self.name)()

        def before(prefix, x):
            return jnp.concatenate([jnp.broadcast_to(prefix, (len(x), *prefix.shape[1:])).astype(x.dtype), x], axis=1)

        mask = mask.replace(num_prefix=mask.num_prefix + self.length)
        return before(k_1PGK, k_BMGK), before(v_1PGK, v_BMGK), mask


class KeysAndValues(nn.Module):
    """The prefix of one layer."""

    arch: Architecture
    prefix: Prefix

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """Return keys and values [1, P, G, K]."""
        arch, P, W = self.arch, self.prefix.length, self.prefix.bottleneck_dim
        shape, axes = (arch.num_kv_heads, arch.head_dim), ('kv_heads', 'kv')
        if W:
            e_PW = new_param(self, 'e', nn.initializers.normal(1.0), (P, W), ('prompt', 'bottleneck'))
            w_WW = new_param(self, 'w', nn.initializers.normal(W**-0.5), (W, W), (None, 'bottleneck'))
            b_W = new_param(self, 'b', nn.initializers.zeros, (W,), ('bottleneck',))
            h_PW = jnp.tanh(e_PW @ w_WW + b_W)
            v_init = nn.initializers.normal(self.prefix.init_std * W**-0.5)

            def widened(name):
                v_WGK = new_param(self, f'v_{name}', v_init, (W, *shape), ('bottleneck', *axes))
                c_GK = new_param(self, f'c_{name}', nn.initializers.zeros, shape, axes)
                return jnp.einsum('PW,WGK->PGK', h_PW, v_WGK) + c_GK

            both = [widened(name) for name in ('k', 'v')]
        else:
            both = [
                new_param(self, name, nn.initializers.normal(self.prefix.init_std), (P, *shape), ('prompt', *axes))
                for name in ('k', 'v')
            ]
        k_1PGK, v_1PGK = (x[None] for x in both)
        return rotate(k_1PGK, jnp.arange(-P, 0)[None], arch.rope_theta, -arch.xpos, arch.scaled_rope), v_1PGK
