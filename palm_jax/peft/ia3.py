"""(IA)³ (Liu et al., arXiv 2205.05638)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

from palm_jax.bounds import Pattern, checked
from palm_jax.models.architecture import Architecture
from palm_jax.peft.method import Method, new_param, outputs_by_name, targets


@checked
@dataclasses.dataclass(frozen=True)
class IA3(Method):
    """Learned vectors that multiply keys, values and the hidden activations of the MLP; they begin at one.

    Attributes:
      targets: regular expression of the kernels whose outputs are multiplied.
      input_targets: regular expression of the kernels whose inputs are multiplied.
    """

    targets: Pattern = 'stack/attn/qkv/(k|v)'
    input_targets: Pattern = 'stack/mlp/out/kernel'
    name: str = dataclasses.field(default='ia3', init=False)

    def intercept(self, next_fun, args, kwargs, context):
        names, scales_input = targets(context, self.targets), targets(context, self.input_targets)
        if not (names or scales_input):
            return next_fun(*args, **kwargs)
        projection = context.module
        scales = Scales(projection.arch, name=self.name)
        if scales_input:
            args = (scales('input', args[0], projection.input_axes), *args[1:])
        outputs = outputs_by_name(projection, next_fun(*args, **kwargs))
        changed = {name: scales(name, outputs[name], projection.axes[name]) for name in names}
        return tuple((outputs | changed).values())

    def merge(self, kernels, params):
        """Return kernels whose columns, or rows, are multiplied by the vectors."""

        def merged(name, kernel):
            if 'input' in params:
                rows = params['input']
                kernel = kernel * rows.reshape(*rows.shape, *(1,) * (kernel.ndim - rows.ndim))
            if name in params:
                columns = params[name]
                middle = kernel.ndim - columns.ndim
                kernel = kernel * columns.reshape(columns.shape[0], *(1,) * middle, *columns.shape[1:])
            return kernel

        return {name: merged(name, kernel) for name, kernel in kernels.items()}


class Scales(nn.Module):
    """The vectors of one projection."""

    arch: Architecture

    @nn.compact
    def __call__(self, name: str, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        """Return x times the vector `name`, over the last axes of x."""
        scale = new_param(self, name, nn.initializers.ones, x.shape[x.ndim - len(axes) :], axes)
        return x * scale.astype(x.dtype)
