"""A model whose embedded inputs are changed on their way to the first block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import flax.linen as nn
import jax

from palm_jax.models.layers import Embed
from palm_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class WithEmbeddedInputs:
    """The same model on changed embeddings of its tokens; implements `Model`.

    The change applies to the tokens of the batch alone: a soft prompt and other inputs of fine-tuning methods are added
    later. For a gradient with respect to the inputs, differentiate with respect to what `change` adds or returns; it
    is 0 if the model has `frozen_layers`, below which there is no backward pass (`clone(frozen_layers=0)` has one).

    Attributes:
      model: model with or without fine-tuning methods.
      change: function of the embedded inputs [B, L, D], in the compute dtype, that returns new ones of the same shape.
    """

    model: Model
    change: Callable[[jax.Array], jax.Array]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's `apply`, with the change."""
        with nn.intercept_methods(self._intercept):
            return self.model.apply(*args, **kwargs)

    def clone(self, **changes: Any) -> Self:
        """Return the same change of a model with other attributes; see `flax.linen.Module.clone`."""
        return dataclasses.replace(self, model=self.model.clone(**changes))

    def _intercept(self, next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        outputs = next_fun(*args, **kwargs)
        is_lookup = isinstance(context.module, Embed) and context.method_name == '__call__'
        return self.change(outputs) if is_lookup else outputs
