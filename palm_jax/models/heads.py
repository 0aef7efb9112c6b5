"""Heads: scores from the features of a sequence."""

from __future__ import annotations

from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, Rate, checked
from palm_jax.models.layers import create_param


@checked
class Head(nn.Module):
    """A linear map of features to C scores, for whole sequences or for every token.

    Attributes:
      num_outputs: number of scores (C): classes, independent labels, or 1 for regression.
      pooling: feature of a sequence: `last` is that of its last token, which in a causal model depends on all of them;
        `first` is that of its first token, for bidirectional attention; `mean` is the average; `none` scores every
        token.
      dropout_rate: dropout probability on the pooled features.
    """

    num_outputs: Annotated[int, AtLeast(1)]
    pooling: Literal['last', 'first', 'mean', 'none'] = 'mean'
    dropout_rate: Rate = 0.0

    @nn.compact
    def __call__(self, h_BLD: jax.Array, segment_ids_BL: jax.Array, deterministic: bool = True) -> jax.Array:
        """Compute scores.

        Args:
          h_BLD: features of the model.
          segment_ids_BL: int32, 1 for a row's tokens and 0 for the padding after them.
          deterministic: whether dropout is off; False requires a `dropout` RNG.

        Returns:
          float32 [B, C], or [B, L, C] without pooling.
        """
        D = h_BLD.shape[-1]
        x = pool(h_BLD.astype(jnp.float32), segment_ids_BL, self.pooling)
        x = nn.Dropout(self.dropout_rate, deterministic=deterministic)(x)
        init, C = nn.initializers.normal(stddev=D**-0.5), self.num_outputs
        kernel_DC = create_param(self, 'kernel', init, (D, C), ('embed', 'classes'), jnp.float32)
        bias_C = create_param(self, 'bias', nn.initializers.zeros, (C,), ('classes',), jnp.float32)
        return x @ kernel_DC + bias_C


def pool(h_BLD: jax.Array, segment_ids_BL: jax.Array, pooling: str) -> jax.Array:
    """Reduce features to one per sequence, [B, D], or with `none` return all of them; see `Head.pooling`."""
    if pooling == 'none':
        return h_BLD
    if pooling == 'first':
        return h_BLD[:, 0]
    inside_BL = (segment_ids_BL > 0).astype(h_BLD.dtype)
    if pooling == 'last':
        last_B = jnp.maximum(segment_ids_BL.astype(bool).sum(axis=1) - 1, 0)
        return jnp.take_along_axis(h_BLD, last_B[:, None, None], axis=1)[:, 0]
    return jnp.einsum('BLD,BL->BD', h_BLD, inside_BL) / jnp.maximum(inside_BL.sum(axis=1, keepdims=True), 1.0)
