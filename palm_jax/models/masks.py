"""Who may attend to whom, said once.

Three rules, taken together: a token sees itself and what precedes it; it sees the whole
prefix where `causal_attention` is 1 (seqio's name for the bidirectional part of a prefix LM,
1 = bidirectional); and it never leaves its own segment of a packed sequence.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Mask:
    """The attention mask of one batch, kept in its compact form until a kernel needs it.

    Attributes:
      segment_ids: int32 [B, L], or None when every row is one sequence. 0 marks padding.
      causal_attention: int32 [B, L], 1 where attention is bidirectional, or None.
      query_positions: int32 [B, L], the key at which each query stands, when keys of earlier
        calls come before those of this one; None: query l stands at key l.
      num_prefix: so many keys stand before all others, and every query sees them.
    """

    segment_ids: jax.Array | None = None
    causal_attention: jax.Array | None = None
    query_positions: jax.Array | None = None
    num_prefix: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def only_causal(self) -> bool:
        """True when a causal flag says everything, so no array is needed."""
        others = (self.segment_ids, self.causal_attention, self.query_positions)
        return self.num_prefix == 0 and all(other is None for other in others)

    def allowed(self, length: int, first: int = 0, last: int | None = None) -> jax.Array:
        """Boolean [B or 1, last - first, M]: may query l attend to key m?

        Args:
          length: number of keys M, the prefix included.
          first, last: the range of queries; last defaults to all of them.
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
        return jnp.pad(allowed, ((0, 0), (0, 0), (self.num_prefix, 0)), constant_values=True)

    def keys_needed(self, last: int, length: int) -> int:
        """How many of `length` leading keys the queries before `last` can see, known at trace time."""
        causal = self.causal_attention is None and self.query_positions is None
        return last + self.num_prefix if causal else length
