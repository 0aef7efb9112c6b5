"""Adapters (Houlsby et al., arXiv 1902.00751)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture
from palm_jax.models.kernels.matmul import matmul
from palm_jax.peft.method import Method, change_targets, new_param


@dataclasses.dataclass(frozen=True)
class Adapter(Method):
    """y + gelu(y·Down)·Up behind both branches of a block, before they meet the residual stream.

    Houlsby et al. place one behind attention and one behind the MLP of a serial block; the
    branches of a parallel block get one each, too. Up begins at zero: the start equals the base.

    Attributes:
      width: of the bottleneck.
      targets: regular expression of the kernels whose outputs get one; their outputs are [D].
    """

    width: int = 64
    targets: str = 'stack/(attn|mlp)/out/kernel'
    name: str = dataclasses.field(default='adapter', init=False)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UserError(f'Adapter.width is {self.width}; it must be at least 1.')

    def intercept(self, next_fun, args, kwargs, context):
        def change(projection, outputs):
            for name in outputs:
                if len(projection.axes[name]) != 1:
                    raise UserError(f'Adapter.targets: {"/".join(projection.path)}/{name} has no vector as its output.')
            return Bottlenecks(projection.arch, self.width, name=self.name)(outputs, projection.axes)

        return change_targets(next_fun, args, kwargs, context, self.targets, change)


class Bottlenecks(nn.Module):
    """The adapters of one projection."""

    arch: Architecture
    width: int

    @nn.compact
    def __call__(self, outputs: dict[str, jax.Array], axes: dict[str, tuple[str, ...]]) -> dict[str, jax.Array]:
        """y + gelu(y·Down)·Up, by name."""
        changed = {}
        for name, y in outputs.items():
            D, (axis,) = y.shape[-1], axes[name]
            init = nn.initializers.normal(stddev=D**-0.5)
            down_DP = new_param(self, f'{name}_down', init, (D, self.width), (axis, 'bottleneck'))
            up_PD = new_param(self, f'{name}_up', nn.initializers.zeros, (self.width, D), ('bottleneck', axis))
            hidden = nn.gelu(matmul(y, down_DP.astype(y.dtype)))
            changed[name] = y + matmul(hidden, up_PD.astype(y.dtype))
        return changed
