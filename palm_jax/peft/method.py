"""The protocol of a fine-tuning method, and a model with methods attached.

A method adds weights to the model at named seams. It attaches by `nn.intercept_methods`, so the
model's code does not mention it, and it keeps three laws:

1. its weights are in a child module of its own (`stack/attn/qkv/lora/...`), so the base's
   parameters keep their paths and their initialisation;
2. its interceptors are entered inside the traced function (`AdaptedModel.apply`), so a compiled
   step cannot miss them;
3. its seams are compact modules (`layers.Projection`), which accept a child.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax.linen.module import InterceptorContext

from palm_jax.bounds import Rate
from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture
from palm_jax.models.layers import Projection, create_param
from palm_jax.models.palm import PaLM


class Method(abc.ABC):
    """A fine-tuning method: a frozen dataclass that gin builds and that overrides what it needs.

    Attributes:
      name: name of the child modules that hold its weights.
      dropout_rate: dropout rate of the method; above 0, training needs a `dropout` RNG.
    """

    name: str
    dropout_rate: Rate = 0.0

    @property
    def adapts(self) -> bool:
        """Whether a run with the method trains the new weights alone; otherwise it trains what it does without it."""
        return True

    @property
    def reads_kernels(self) -> bool:
        """Whether `intercept` reads the base's kernels, which decoding otherwise stores in another form."""
        return False

    @abc.abstractmethod
    def intercept(self, next_fun: Callable, args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        """Called instead of every method of every module, see `nn.intercept_methods`."""

    def init_from_base(self, siblings: dict[str, Any], params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Return the weights of a child module to start from, given those of the base.

        Args:
          siblings: kernels [N, *inputs, *outputs] and other modules next to the child, by name.
          params: weights of the child as initialized.
        """
        del siblings
        return params

    def merge(self, kernels: dict[str, jax.Array], params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Return kernels that compute what kernels and child compute together.

        Raises:
          UserError: the method is not a change of the kernels.
        """
        raise UserError(f'{type(self).__name__} cannot be merged into the kernels: it is not a change of them.')

    def penalty(self, params: Any) -> jax.Array | float:
        """Return the term that is added to the mean loss, from all parameters of the model."""
        del params
        return 0.0

    def wrap_optimizer(self, optimizer: Any) -> Any:
        """Return the optimizer that this method needs, given the run's: (`init`, `update`, `schedule`)."""
        return optimizer


@dataclasses.dataclass(frozen=True)
class AdaptedModel:
    """A model with methods attached; with none it is the model itself.

    Attributes:
      model: base model.
      methods: methods from the inside out: the first sees the outputs of the base.
    """

    model: PaLM
    methods: tuple[Method, ...] = ()

    @property
    def arch(self) -> Architecture:
        """Architecture of the base."""
        return self.model.arch

    @property
    def head(self) -> nn.Module | None:
        """Head of the base."""
        return self.model.head

    @property
    def has_dropout(self) -> bool:
        """Whether training needs a `dropout` RNG."""
        return self.model.has_dropout or any(method.dropout_rate for method in self.methods)

    @property
    def reads_kernels(self) -> bool:
        """Whether a method reads the base's kernels; see `Method.reads_kernels`."""
        return any(method.reads_kernels for method in self.methods)

    @property
    def trainable(self) -> tuple[str, ...]:
        """Regular expressions of the new weights: the methods' and the head's."""
        head = () if self.model.head is None else ('head/.*',)
        return (*(f'(.*/)?{method.name}/.*' for method in self.methods), *head)

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Call `nn.Module.init` with the methods attached."""
        with self._attached():
            return self.model.init(*args, **kwargs)

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Call `nn.Module.apply` with the methods attached."""
        with self._attached():
            return self.model.apply(*args, **kwargs)

    def init_from_base(self, params: Any) -> Any:
        """Return the parameters to start from, given those of the base; see `Method.init_from_base`."""
        for method in self.methods:

            def change(siblings: dict, params: dict, method: Method = method) -> tuple[dict, dict | None]:
                return {}, method.init_from_base(siblings, params)

            params = _visit(params, method.name, change)
        return params

    def merge(self, params: Any) -> Any:
        """Return parameters with which the base alone computes the same; see `Method.merge`."""
        for method in self.methods:

            def change(siblings: dict, params: dict, method: Method = method) -> tuple[dict, dict | None]:
                return method.merge(_kernels(siblings), params), None

            params = _visit(params, method.name, change)
        return params

    def penalty(self, params: Any) -> jax.Array | float:
        """Return the sum of the methods' penalties, which is added to the mean loss; see `Method.penalty`."""
        return sum(method.penalty(params) for method in self.methods)

    def wrap_optimizer(self, optimizer: Any) -> Any:
        """Return the optimizer that the methods need; see `Method.wrap_optimizer`."""
        for method in self.methods:
            optimizer = method.wrap_optimizer(optimizer)
        return optimizer

    def freeze_layers(self, num_layers: int) -> AdaptedModel:
        """Return the same model without a gradient in the first layers; see `PaLM.frozen_layers`."""
        return self.clone(frozen_layers=num_layers)

    def clone(self, **changes: Any) -> AdaptedModel:
        """Return the same methods on a base with other attributes, like `nn.Module.clone`."""
        return dataclasses.replace(self, model=self.model.clone(**changes))

    @contextlib.contextmanager
    def _attached(self):
        with contextlib.ExitStack() as stack:
            for method in reversed(self.methods):  # the interceptor entered last is called first
                stack.enter_context(nn.intercept_methods(method.intercept))
            yield


def _visit(params: Any, name: str, change: Callable[[dict, dict], tuple[dict, dict | None]]) -> Any:
    """Calls change(beside, child) wherever a child module called `name` lies; it gives new kernels and the child."""
    if not isinstance(params, dict):
        return params
    rest = {key: _visit(value, name, change) for key, value in params.items() if key != name}
    if name not in params:
        return rest
    kernels, params = change(rest, params[name])
    return rest | kernels | ({} if params is None else {name: params})


def _kernels(siblings: dict[str, Any]) -> dict[str, jax.Array]:
    return {key: value for key, value in siblings.items() if not isinstance(value, dict)}


def targets(context: InterceptorContext, pattern: str) -> tuple[str, ...]:
    """Return the outputs of an intercepted projection whose kernels' paths match; none for other modules."""
    module = context.module
    if not isinstance(module, Projection) or context.method_name != '__call__':
        return ()
    path = [name for name in module.path if not name.isdigit()]  # layers outside a scan are numbered
    return tuple(name for name in module.outputs if re.fullmatch(pattern, '/'.join((*path, name))))


def change_targets(
    next_fun: Callable,
    args: tuple,
    kwargs: dict,
    context: InterceptorContext,
    pattern: str,
    change: Callable[[Projection, dict[str, jax.Array]], dict[str, jax.Array]],
) -> Any:
    """Call the intercepted method, and change the outputs of a projection whose kernels' paths match.

    Args:
      next_fun, args, kwargs, context: arguments of `Method.intercept`.
      pattern: regular expression of kernels.
      change: function of (projection, matching outputs by name) that returns their new values by name.
    """
    outputs, names, module = next_fun(*args, **kwargs), targets(context, pattern), context.module
    if not names or not isinstance(module, Projection):
        return outputs
    by_name = outputs_by_name(module, outputs)
    return tuple((by_name | change(module, {name: by_name[name] for name in names})).values())


def outputs_by_name(projection: Projection, outputs: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
    """Return the outputs of a projection by name, in order."""
    return dict(zip(projection.outputs, outputs, strict=True))


def new_param(
    module: nn.Module, name: str, init: Callable, shape: tuple[int, ...], axes: tuple[str | None, ...]
) -> jax.Array:
    """Create a weight of a method with its logical axes, in the dtype of the base's parameters."""
    return create_param(module, name, init, shape, axes, module.arch.param_dtype)
