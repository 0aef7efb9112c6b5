"""Adapters (Houlsby et al., arXiv 1902.00751)."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax

from palm_jax.bounds import AtLeast, Pattern, checked
from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture
from palm_jax.models.kernels.matmul import matmul
from palm_jax.peft.method import Method, change_targets, new_param


@checked
@dataclasses.dataclass(frozen=True)
class Adapter(Method):
    """y + gelu(y·Down)·Up on the outputs y of both branches of a block, before the residual addition.

    Houlsby et al. place one after attention and one after the MLP of a serial block; the branches
    of a parallel block get one each, too. Up begins at zero: the start equals the base.

    Attributes:
      bottleneck_dim: width of the bottleneck.
      targets: regular expression of the kernels whose outputs are adapted; the outputs must be vectors [D].
    """

    bottleneck_dim: Annotated[int, AtLeast(1)] = 32
    targets: Pattern = 'stack/(attn|mlp)/out/kernel'
    name: str = dataclasses.field(default='adapter', init=False)

    def intercept(self, next_fun, args, kwargs, context):
        def change(projection, outputs):
            for name in outputs:
                if len(projection.axes[name]) != 1:
                    raise UserError(f'Adapter.targets: {"/".join(projection.path)}/{name} has no vector as its output.')
            return Bottlenecks(projection.arch, self.bottleneck_dim, name=self.name)(outputs, projection.axes)

        return change_targets(next_fun, args, kwargs, context, self.targets, change)


class Bottlenecks(nn.Module):
    """The adapters of one projection."""

    arch: Architecture
    bottleneck_dim: int

    @nn.compact
    def __call__(self, outputs: dict[str, jax.Array], axes: dict[str, tuple[str, ...]]) -> dict[str, jax.Array]:
        """Return y + gelu(y·Down)·Up [..., D], by name."""
        changed = {}
        for name, y in outputs.items():
            D, (axis,) = y.shape[-1], axes[name]
            init = nn.initializers.normal(stddev=D**-0.5)
            down_DP = new_param(self, f'{name}_down', init, (D, self.bottleneck_dim), (axis, 'bottleneck'))
            up_PD = new_param(self, f'{name}_up', nn.initializers.zeros, (self.bottleneck_dim, D), ('bottleneck', axis))
            hidden = nn.gelu(matmul(y, down_DP.astype(y.dtype)))
            changed[name] = y + matmul(hidden, up_PD.astype(y.dtype))
        return changed
