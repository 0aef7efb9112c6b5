"""BitFit (Ben Zaken et al., arXiv 2106.10199) for a model without biases."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

from palm_jax.bounds import Pattern, checked
from palm_jax.models.architecture import Architecture
from palm_jax.peft.method import Method, change_targets, new_param


@checked
@dataclasses.dataclass(frozen=True)
class BitFit(Method):
    """Trained biases. PaLM has none, so the method adds them, initialized to zero, to its linear maps.

    Attributes:
      targets: regular expression of the kernels whose outputs get a bias.
    """

    targets: Pattern = 'stack/(attn|mlp)/.*'
    name: str = dataclasses.field(default='bitfit', init=False)

    def intercept(self, next_fun, args, kwargs, context):
        def change(projection, outputs):
            return Biases(projection.arch, name=self.name)(outputs, projection.axes)

        return change_targets(next_fun, args, kwargs, context, self.targets, change)


class Biases(nn.Module):
    """The biases of one projection."""

    arch: Architecture

    @nn.compact
    def __call__(self, outputs: dict[str, jax.Array], axes: dict[str, tuple[str, ...]]) -> dict[str, jax.Array]:
        """Return every output plus its bias, by name."""
        shifted = {}
        for name, y in outputs.items():
            shape = y.shape[y.ndim - len(axes[name]) :]
            shifted[name] = y + new_param(self, name, nn.initializers.zeros, shape, axes[name]).astype(y.dtype)
        return shifted
