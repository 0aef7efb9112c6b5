"""The seam at the embedded inputs: what methods that change x = embed(tokens) share; the model does not know of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
from flax.linen.module import InterceptorContext

from palm_jax.models.layers import Embed


@contextlib.contextmanager
def changed_inputs(change: Callable[[jax.Array], jax.Array]) -> Iterator[None]:
    """Replace the embedded inputs x [B, L, D] of every model applied inside the context by `change(x)`.

    Enter it inside the function that is traced, so that a compiled function cannot miss it. A gradient with respect to
    an array that `change` adds or returns is one with respect to the embedded inputs; a model with frozen layers has
    none there, so that it is cloned with `frozen_layers=0`.

    Args:
      change: function of the embedded inputs that returns an array of the same shape.
    """

    def intercept(next_fun: Callable, args: tuple, kwargs: dict, context: InterceptorContext) -> Any:
        outputs = next_fun(*args, **kwargs)
        is_lookup = isinstance(context.module, Embed) and context.method_name == '__call__'
        return change(outputs).astype(outputs.dtype) if is_lookup else outputs

    with nn.intercept_methods(intercept):
        yield


def embed(model: Any, params: Any, tokens_BL: jax.Array) -> jax.Array:
    """Return the embedded inputs [B, L, D] of token ids, as `PaLM.transform` receives them.

    Args:
      model: model, with or without methods attached.
      params: parameters of the model.
      tokens_BL: int32 token ids.
    """
    return model.apply({'params': params}, tokens_BL, method=lambda palm, tokens_BL: palm.embed(tokens_BL))
