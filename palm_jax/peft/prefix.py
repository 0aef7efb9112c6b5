"""Prefix tuning (Li and Liang, arXiv 2101.00190)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture
from palm_jax.models.attention import Memory
from palm_jax.models.kernels.rope import rotate
from palm_jax.peft.method import Method, new_param


@dataclasses.dataclass(frozen=True)
class Prefix(Method):
    """Learned keys and values that stand before those of every text, in every layer.

    With one key head a prefix is tiny: 2·K numbers a token and layer. Its keys are turned as if
    they stood P to 1 places before the text begins, as a cache of P tokens would (peft's own).

    Attributes:
      length: P.
      width: of the re-parameterization tanh(e·W + b)·V + c with e [P, width], as wide inside;
        0 learns keys and values themselves.
      deviation: standard deviation of what is learned, at the start.
    """

    length: int = 16
    width: int = 0
    deviation: float = 0.02
    name: str = dataclasses.field(default='prefix', init=False)

    def __post_init__(self) -> None:
        if self.length < 1 or self.width < 0:
            raise UserError(f'Prefix: length = {self.length} must be at least 1, width = {self.width} at least 0.')

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
        """Keys and values [1, P, G, K]."""
        arch, P, W = self.arch, self.prefix.length, self.prefix.width
        shape, axes = (arch.num_kv_heads, arch.head_dim), ('kv_heads', 'kv')
        if W:
            e_PW = new_param(self, 'e', nn.initializers.normal(1.0), (P, W), ('prompt', 'bottleneck'))
            w_WW = new_param(self, 'w', nn.initializers.normal(W**-0.5), (W, W), (None, 'bottleneck'))
            b_W = new_param(self, 'b', nn.initializers.zeros, (W,), ('bottleneck',))
            h_PW = jnp.tanh(e_PW @ w_WW + b_W)
            v_init = nn.initializers.normal(self.prefix.deviation * W**-0.5)

            def widened(name):
                v_WGK = new_param(self, f'v_{name}', v_init, (W, *shape), ('bottleneck', *axes))
                c_GK = new_param(self, f'c_{name}', nn.initializers.zeros, shape, axes)
                return jnp.einsum('PW,WGK->PGK', h_PW, v_WGK) + c_GK

            both = [widened(name) for name in ('k', 'v')]
        else:
            both = [
                new_param(self, name, nn.initializers.normal(self.prefix.deviation), (P, *shape), ('prompt', *axes))
                for name in ('k', 'v')
            ]
        k_1PGK, v_1PGK = (x[None] for x in both)
        return rotate(k_1PGK, jnp.arange(-P, 0)[None], arch.rope_theta, -arch.xpos), v_1PGK
