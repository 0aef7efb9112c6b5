"""A fine-tuning method of your own: every linear map W becomes diag(r)·W·diag(c) with learned vectors r and c.

Shows: the five things a method says (its name, where it attaches, which weights it adds, how they begin, how they
merge). The model, the loop, the checkpoints and the export know nothing of it. Run it from the root of the repository:

    python -m palm_jax.train --gin_file=examples/my_method/my_method.gin \\
        --gin.TRAIN_FILES=text_data.csv --gin.INITIAL_CHECKPOINT_PATH=runs/tiny

(IA)³ (palm_jax/peft/ia3.py) does this for keys, values and the MLP's hidden activations only.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

from palm_jax.models.architecture import Architecture
from palm_jax.peft.method import Method, new_param, outputs_by_name, targets


@dataclasses.dataclass(frozen=True)
class RowsAndColumns(Method):
    """y = ((x ⊙ r)·W) ⊙ c; r and c begin at one, so the start equals the base, and W is not trained.

    Attributes:
      targets: regular expression of the kernels whose inputs and outputs are scaled. The outputs of one projection
        (q, k and v, for example) share their input, and so they share r.
      name: name of the child module that holds the vectors, e.g. `stack/attn/qkv/scales/q`.
    """

    targets: str = 'stack/(attn|mlp)/.*'
    name: str = dataclasses.field(default='scales', init=False)

    def intercept(self, next_fun, args, kwargs, context):
        """Scale the input and the matching outputs of a projection; leave every other call as it is."""
        names = targets(context, self.targets)
        if not names:
            return next_fun(*args, **kwargs)
        projection = context.module
        scales = Scales(projection.arch, name=self.name)
        x = scales('rows', args[0], projection.input_axes)
        outputs = outputs_by_name(projection, next_fun(x, *args[1:], **kwargs))
        scaled = {name: scales(name, outputs[name], projection.axes[name]) for name in names}
        return tuple((outputs | scaled).values())

    def merge(self, kernels, params):
        """Return diag(r)·W·diag(c): kernels are [N, *inputs, *outputs], r [N, *inputs], c [N, *outputs]."""

        def merged(name, kernel):
            r, c = params['rows'], params.get(name)
            kernel = kernel * r.reshape(*r.shape, *(1,) * (kernel.ndim - r.ndim))
            if c is not None:
                kernel = kernel * c.reshape(c.shape[0], *(1,) * (kernel.ndim - c.ndim), *c.shape[1:])
            return kernel

        return {name: merged(name, kernel) for name, kernel in kernels.items()}


class Scales(nn.Module):
    """The vectors of one projection, a parameter for each name."""

    arch: Architecture

    @nn.compact
    def __call__(self, name: str, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        """Return x times the vector `name`, which spans the last len(axes) axes of x."""
        shape = x.shape[x.ndim - len(axes) :]
        return x * new_param(self, name, nn.initializers.ones, shape, axes).astype(x.dtype)
