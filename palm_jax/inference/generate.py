"""Writes continuations of prompts, a token at a time, over a cache of keys and values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from palm_jax.errors import UserError
from palm_jax.models.palm import PaLM

START_ID, EOS_ID = 0, 1


class Codec(Protocol):
    """The part of a vocabulary that generation needs."""

    def encode(self, text: str) -> list[int]:
        """Text to ids."""

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text."""


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Greedy, top-k and nucleus sampling (Holtzman et al., arXiv 1904.09751).

    Attributes:
      max_tokens: length of a continuation at most.
      temperature: divides the logits; 0 is greedy.
      top_p: keeps the most likely tokens that together reach this probability.
      top_k: keeps so many of the most likely tokens; 0 keeps all.
      seed: the same seed gives the same text, at any batch size.
      batch_size: prompts worked on at one time.
    """

    max_tokens: int = 96
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.batch_size < 1:
            raise UserError(
                f'Sampler: max_tokens = {self.max_tokens}, batch_size = {self.batch_size}; at least 1 each.'
            )
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise UserError(
                f'Sampler: temperature = {self.temperature} and top_k = {self.top_k} must not be negative, '
                f'top_p = {self.top_p} must be above 0 and at most 1.'
            )

    def __call__(
        self, model: PaLM, params: Any, vocabulary: Codec, prompts: Sequence[str], length: int, first: int = 0
    ) -> list[str]:
        """Continues every prompt.

        Args:
          model, params: the language model.
          vocabulary: encodes prompts and decodes continuations.
          prompts: texts.
          length: of the sequences the model was trained on; prompt and continuation fit in it.
          first: number of the first prompt; a prompt's random choices depend on seed and number.

        Returns:
          The continuations, without the prompts, up to the end mark.

        Raises:
          UserError: a prompt leaves no room for one token.
        """
        encoded = [vocabulary.encode(prompt) for prompt in prompts]
        for prompt, ids in zip(prompts, encoded, strict=True):
            if len(ids) + 1 >= length:
                raise UserError(f'The prompt {prompt[:40]!r} has {len(ids)} tokens; the model reads {length}.')
        continuations = self.continue_ids(model, params, [[START_ID, *ids] for ids in encoded], length, first=first)
        return [vocabulary.decode(ids) for ids in continuations]

    def continue_ids(
        self,
        model: PaLM,
        params: Any,
        prompts: Sequence[Sequence[int]],
        length: int,
        bidirectional: bool = False,
        first: int = 0,
    ) -> list[list[int]]:
        """Continues every prompt of ids, each with its start mark, up to the end mark or to `length` in all.

        Prompts are taken by length, so that those of a batch are much alike; batches and
        lengths are rounded up to few shapes, so that little is compiled.

        Args:
          model, params: the language model.
          prompts: ids, less than `length` each.
          length: tokens of prompt and continuation together.
          bidirectional: a prompt's tokens see each other both ways, as of a prefix LM.
          first: number of the first prompt.

        Returns:
          The continuations' ids in the order of the prompts.
        """
        order = np.argsort([len(ids) for ids in prompts], kind='stable')
        batch_size = min(self.batch_size, _next_power_of_two(len(prompts)))
        results: list[list[int]] = [[]] * len(prompts)
        starts = range(0, len(prompts), batch_size)
        for start in tqdm(starts, desc='writing', unit=' batches', leave=False, disable=len(starts) < 2):
            rows = [int(i) for i in order[start : start + batch_size]]
            padded = rows + rows[-1:] * (batch_size - len(rows))
            width = min(_next_power_of_two(max(len(prompts[i]) for i in rows), 16), length)
            tokens, lengths = np.zeros((batch_size, width), np.int32), np.zeros(batch_size, np.int32)
            for row, i in enumerate(padded):
                lengths[row] = len(prompts[i])
                tokens[row, : lengths[row]] = prompts[i]
            numbers = np.array(padded, np.int32) + first
            written = np.asarray(self._continue(model, length, bidirectional, params, tokens, lengths, numbers))
            for row, i in enumerate(rows):
                ids = written[row, : min(self.max_tokens, length - len(prompts[i]))].tolist()
                results[i] = ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids
        return results

    @functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
    def _continue(self, model, length, bidirectional, params, tokens_BP, lengths_B, numbers_B):
        """[B, T] ids behind prompts [B, P]; behind an end mark stands more of them."""
        T = min(self.max_tokens, length)
        rngs_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self.seed), numbers_B)
        inside_BP = (jnp.arange(tokens_BP.shape[1]) < lengths_B[:, None]).astype(jnp.int32)
        context = (None, None, inside_BP if bidirectional else None)

        def choose(h_BD, t):
            logits_BV = model.apply({'params': params}, h_BD[:, None], method=lambda m, h: m.embed.attend(h))[:, 0]
            return self.choose(logits_BV, jax.vmap(jax.random.fold_in, (0, None))(rngs_B, t))

        # The prompts at once. Slot p of the cache belongs to position p: what padding left there
        # is overwritten before a query stands so far.
        h_BPD, cache = model.apply({'params': params}, tokens_BP, *context, method='features', mutable=['cache'])
        cache = jax.tree.map(
            lambda c: jnp.pad(c, [(0, T) if axis == c.ndim - 3 else (0, 0) for axis in range(c.ndim)]), cache
        )
        last_BD = jnp.take_along_axis(h_BPD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
        written_BT = jnp.full((len(lengths_B), T), EOS_ID, jnp.int32).at[:, 0].set(choose(last_BD, 0))

        def unfinished(carry):
            t, _, _, ended_B = carry
            return (t < T) & ~jnp.all(ended_B)

        def body(carry):
            t, cache, written_BT, _ = carry
            token_B = written_BT[:, t - 1]
            variables = {'params': params} | cache
            inputs = token_B[:, None], (lengths_B + t - 1)[:, None]
            h_B1D, cache = model.apply(variables, *inputs, method='features', mutable=['cache'])
            written_BT = written_BT.at[:, t].set(choose(h_B1D[:, 0], t))
            return t + 1, cache, written_BT, jnp.any(written_BT == EOS_ID, axis=1, where=jnp.arange(T) <= t)

        start = (jnp.ones((), jnp.int32), cache, written_BT, written_BT[:, 0] == EOS_ID)
        return jax.lax.while_loop(unfinished, body, start)[2]

    def choose(self, logits_BV: jax.Array, rngs_B: jax.Array) -> jax.Array:
        """A token a row: the most likely one, or one drawn from what is kept with the row's key."""
        if self.temperature == 0:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        p_BV = jax.nn.softmax(logits_BV / self.temperature, axis=-1)
        sorted_BV = -jnp.sort(-p_BV, axis=-1)
        before_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV
        kept_BV = before_BV < self.top_p
        if self.top_k:
            kept_BV &= jnp.arange(kept_BV.shape[1]) < self.top_k
        smallest_B1 = jnp.min(jnp.where(kept_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        kept_logits_BV = jnp.where(p_BV >= smallest_B1, jnp.log(p_BV), -jnp.inf)
        return jax.vmap(jax.random.categorical)(rngs_B, kept_logits_BV).astype(jnp.int32)


def _next_power_of_two(n: int, least: int = 1) -> int:
    return max(least, 1 << (n - 1).bit_length())
