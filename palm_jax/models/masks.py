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
    """

    segment_ids: jax.Array | None = None
    causal_attention: jax.Array | None = None

    @property
    def only_causal(self) -> bool:
        """True when a causal flag says everything, so no array is needed."""
        return self.segment_ids is None and self.causal_attention is None

    def allowed(self, length: int, first: int = 0, last: int | None = None) -> jax.Array:
        """Boolean [B or 1, last - first, M]: may query l attend to key m?

        Args:
          length: number of keys M, counted from position 0 of the row.
          first, last: the range of queries; last defaults to `length`.
        """
        last = length if last is None else last
        rows, columns = jnp.arange(first, last)[:, None], jnp.arange(length)[None, :]
        allowed = (rows >= columns)[None]
        if self.causal_attention is not None:
            in_prefix = self.causal_attention > 0
            allowed |= in_prefix[:, first:last, None] & in_prefix[:, None, :length]
        if self.segment_ids is not None:
            allowed &= self.segment_ids[:, first:last, None] == self.segment_ids[:, None, :length]
        return allowed

    def keys_needed(self, last: int, length: int) -> int:
        """How many leading keys the queries before `last` can see, known at trace time."""
        return last if self.causal_attention is None else length
