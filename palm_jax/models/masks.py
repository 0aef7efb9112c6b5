"""The attention mask: which keys each query may attend to.

Four rules apply together: a token attends to itself and to the tokens before it; tokens where `causal_attention` is 1
(seqio's name for the bidirectional part of a prefix LM) attend to each other in both directions; no token attends to
another segment of a packed sequence; and where there is a window, none attends beyond it.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Mask:
    """The attention mask of one batch, in compact form until a kernel needs the array.

    Attributes:
      segment_ids: int32 [B, L] ids of packed sequences, 0 for padding; None is one sequence per row.
      causal_attention: int32 [B, L], 1 where attention is bidirectional; None is causal everywhere.
      query_positions: int32 [B, L] index of the key at each query's position, when the keys include those of earlier
        calls; None: query l is at key l.
      window: number of keys that a query attends to on either side, its own included; an int, or int32 [] where layers
        differ; None is all of them.
      num_prefix: number of keys before all others that every query attends to.
    """

    segment_ids: jax.Array | None = None
    causal_attention: jax.Array | None = None
    query_positions: jax.Array | None = None
    window: jax.Array | int | None = None
    num_prefix: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def only_causal(self) -> bool:
        """Whether the mask is plainly causal, so that no array is needed."""
        others = (self.segment_ids, self.causal_attention, self.query_positions, self.window)
        return self.num_prefix == 0 and all(other is None for other in others)

    def allowed(self, length: int, first: int = 0, last: int | None = None) -> jax.Array:
        """Boolean array that is True where query l may attend to key m.

        Args:
          length: number of keys M, including the prefix.
          first: first query.
          last: query after the last one; None is the number of queries.

        Returns:
          [B or 1, last - first, M].
        """
        length -= self.num_prefix
        columns = jnp.arange(length)
        if self.query_positions is None:
            last = length if last is None else last
            rows = jnp.arange(first, last)[None, :, None]
        else:
            rows = self.query_positions[:, first:last, None]
        allowed = rows >= columns
        if self.causal_attention is not None:
            in_prefix = self.causal_attention > 0
            allowed |= in_prefix[:, first:last, None] & in_prefix[:, None, :length]
        if self.segment_ids is not None:
            allowed &= self.segment_ids[:, first:last, None] == self.segment_ids[:, None, :length]
        if self.window is not None:
            allowed &= jnp.abs(rows - columns) < self.window
        return jnp.pad(allowed, ((0, 0), (0, 0), (self.num_prefix, 0)), constant_values=True)

    def keys_needed(self, last: int, length: int) -> int:
        """Number of the `length` keys that queries before `last` can attend to; a Python int, known at trace time."""
        causal = self.causal_attention is None and self.query_positions is None
        return last + self.num_prefix if causal else length
