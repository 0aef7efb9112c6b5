"""Keys and values of the beginnings of prompts, kept for prompts that begin alike (a system prompt, an earlier turn).

A causal model's keys and values at a position depend on the tokens up to there alone, so a beginning that was read
once need not be read again. They are kept in blocks of equally many tokens, as in vLLM (Kwon et al., arXiv 2309.06180):
a block is known by its ids and the block before it. The least recently used blocks make room for new ones.
"""

from __future__ import annotations

import collections
import functools
import itertools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.inference.decoding import Beginning
from palm_jax.inference.generate import next_power_of_two

_LOGGER = logging.getLogger(__name__)
BLOCK = 64  # tokens; less is not worth a program that is compiled for what follows them
_Key: TypeAlias = tuple[int, tuple[int, ...]]  # name of the block before, or 0, and ids


class _Block(NamedTuple):
    name: int
    place: int  # in the pool


class PrefixCache:
    """Beginnings of prompts of one model.

    Args:
      max_bytes: maximum size of the keys and values in bytes; they are allocated when the first prompt is long enough.
      max_tokens: maximum number of their tokens.
      block: number of tokens of a block.
    """

    def __init__(self, max_bytes: int, max_tokens: int, block: int = BLOCK):
        self._max_bytes, self._max_tokens, self._block = max_bytes, max_tokens, block
        self._names = itertools.count(1)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._known: collections.OrderedDict[_Key, _Block] = collections.OrderedDict()  # the most recently used last
        self._pool: Any = None  # keys and values of all layers, [blocks, block, G, K]
        self._start: Any = None  # those before the first token, such as of a soft prompt, [slots, G, K]
        self._free: list[int] = []

    @property
    def num_tokens(self) -> int:
        """Number of tokens whose keys and values are kept."""
        return len(self._known) * self._block

    def find(self, prompt: Sequence[int]) -> tuple[int, _Key | None]:
        """Return how many of a prompt's first tokens are known, and the whole block after them, if there is one.

        At least the last token of a prompt is left to be read. Prompts that continue with the same block may share it.
        """
        keys, following = self._find(prompt[:-1])
        return len(keys) * self._block, following

    def match(self, prompts: Sequence[Sequence[int]], size: int, width: int) -> Beginning | None:
        """Return the known beginnings of prompts, which leave at least the last token to be read.

        Args:
          prompts: token ids.
          size: number of rows, at least that of the prompts.
          width: number of tokens that the rows have room for.

        Returns:
          Beginnings [size], of which some may be empty; None if all are.
        """
        tables = np.zeros((size, -(-width // self._block)), np.int32)
        length = np.zeros(size, np.int32)
        for row, prompt in enumerate(prompts):
            keys, _ = self._find(prompt[:-1])
            tables[row, : len(keys)] = [self._known[key].place for key in keys]
            length[row] = len(keys) * self._block
            self._touch(keys)
        if not length.any():
            return None
        most = max(len(prompt) - start for prompt, start in zip(prompts, length, strict=False))
        cache = _gather(self._pool, self._start, tables, width=width)
        return Beginning(cache, length, num_new=min(next_power_of_two(int(most), 16), width))

    def add(self, prompts: Sequence[Sequence[int]], cache: Any, width: int) -> None:
        """Keep the whole blocks of prompts that were read.

        Args:
          prompts: token ids.
          cache: keys and values of every layer, [B, M, G, K], of at least as many rows as prompts.
          width: number of tokens that the rows have room for: the last of the M slots.
        """
        copies, used = list[tuple[int, int, int]](), set[_Key]()
        for row, prompt in enumerate(prompts):
            if len(prompt) >= self._block and self._pool is None:
                self._allocate(cache, width)
            keys, following = self._find(prompt)
            used.update(keys)
            while following is not None and (place := self._take(used)) is not None:
                copies.append((row, len(keys), place))
                self._known[following] = _Block(next(self._names), place)
                used.add(following)
                keys, following = self._find(prompt)
            self._touch(keys)
        if copies:
            padded = copies + [(0, 0, self._num_blocks)] * (next_power_of_two(len(copies)) - len(copies))
            rows, numbers, places = np.array(padded, np.int32).T
            self._pool = _store(self._pool, cache, rows, numbers, places, width=width)

    def _find(self, ids: Sequence[int]) -> tuple[list[_Key], _Key | None]:
        """Return the known blocks that ids begin with, and the whole block that follows them, if there is one."""
        keys, parent = list[_Key](), 0
        for start in range(0, len(ids) - self._block + 1, self._block):
            key = (parent, tuple(ids[start : start + self._block]))
            block = self._known.get(key)
            if block is None:
                return keys, key
            keys.append(key)
            parent = block.name
        return keys, None

    def _touch(self, keys: Sequence[_Key]) -> None:
        """Note the use of blocks; the first is forgotten last, because the others are of no use without it."""
        for key in reversed(keys):
            self._known.move_to_end(key)

    def _take(self, used: set[_Key]) -> int | None:
        """Return a place in the pool, of the least recently used block if none is free; None if all are in use."""
        if self._free:
            return self._free.pop()
        oldest = next(iter(self._known), None)
        return None if oldest is None or oldest in used else self._known.pop(oldest).place

    def _allocate(self, cache: Any, width: int) -> None:
        bytes_of_block = sum(x[0, 0].nbytes for x in jax.tree.leaves(cache)) * self._block
        self._num_blocks = min(self._max_bytes // bytes_of_block, self._max_tokens // self._block)
        if not self._num_blocks:
            _LOGGER.warning('%d bytes hold no block of the prefix cache: one has %d.', self._max_bytes, bytes_of_block)
        self._pool = jax.tree.map(lambda x: jnp.zeros((self._num_blocks, self._block, *x.shape[2:]), x.dtype), cache)
        self._start = jax.tree.map(lambda x: x[0, : x.shape[1] - width], cache)
        self._free = list(range(self._num_blocks))


@functools.partial(jax.jit, static_argnames='width')
def _gather(pool: Any, start: Any, table_BT: jax.Array, width: int) -> Any:
    """Return a cache [B, start + width, G, K] that begins with the blocks of each row of a table."""

    def of_array(pool_IOGK, start_SGK):
        blocks_BTOGK = pool_IOGK[table_BT]
        B, heads = len(table_BT), blocks_BTOGK.shape[3:]
        tokens_BMGK = blocks_BTOGK.reshape(B, -1, *heads)[:, :width]
        return jnp.concatenate([jnp.broadcast_to(start_SGK, (B, *start_SGK.shape)), tokens_BMGK], axis=1)

    return jax.tree.map(of_array, pool, start)


@functools.partial(jax.jit, donate_argnames='pool', static_argnames='width')
def _store(pool: Any, cache: Any, rows_n: jax.Array, numbers_n: jax.Array, places_n: jax.Array, width: int) -> Any:
    """Copy block number `numbers_n` of row `rows_n` of a cache to place `places_n` of the pool; see `add`."""

    def of_array(pool_IOGK, cache_BMGK):
        block = pool_IOGK.shape[1]
        slots_nO = cache_BMGK.shape[1] - width + numbers_n[:, None] * block + jnp.arange(block)
        return pool_IOGK.at[places_n].set(cache_BMGK[rows_n[:, None], slots_nO], mode='drop')

    return jax.tree.map(of_array, pool, cache)
