"""A model that also keeps what its modules compute on the way: Flax's collection `intermediates`."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from palm_jax.models.model import Model

COLLECTION = 'intermediates'


@dataclasses.dataclass(frozen=True)
class WithIntermediates:
    """The same model, which keeps what its modules `sow`; implements `Model`.

    Attention sows `queries` [B, L, H, K], `keys` and `values` [B, M, G, K], as they enter the attention. Of stacked
    layers every array has a leading layers axis; a model with `frozen_layers` runs its layers in two parts and cannot
    keep them (`clone(frozen_layers=0)` can).

    Attributes:
      model: model with or without fine-tuning methods.
      found: the collection of each call of `apply` that sowed something, in order; arrays of the same trace.
    """

    model: Model
    found: list[Any] = dataclasses.field(default_factory=list, compare=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's `apply`, and keep what was sown."""
        outputs, variables = self.model.apply(*args, mutable=[COLLECTION], **kwargs)
        if COLLECTION in variables:
            self.found.append(variables[COLLECTION])
        return outputs

    def clone(self, **changes: Any) -> Self:
        """Return the same of a model with other attributes; see `flax.linen.Module.clone`."""
        return dataclasses.replace(self, model=self.model.clone(**changes))

    def of_attention(self, layer: int) -> tuple[Any, Any, Any]:
        """Return the queries, keys and values of a layer in the last call; −1 is the last layer."""
        attention = self.found[-1]['stack']['attn']
        queries, keys, values = (attention[name][0][layer] for name in ('queries', 'keys', 'values'))
        return queries, keys, values
