"""Samples continuations of prompts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.errors import UserError
from palm_jax.models.palm import PaLM

_EOS_ID = 1


class Codec(Protocol):
    """The part of a vocabulary that generation needs."""

    def encode(self, text: str) -> list[int]:
        """Text to ids."""

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text."""


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Nucleus sampling (Holtzman et al., arXiv 1904.09751).

    Attributes:
      max_tokens: length of a continuation at most.
      temperature: divides the logits; 0 is greedy.
      top_p: keeps the most likely tokens that together reach this probability.
      seed: the same seed gives the same text.
    """

    max_tokens: int = 96
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int = 0

    def __call__(self, model: PaLM, params: Any, vocabulary: Codec, prompts: Sequence[str], length: int) -> list[str]:
        """Continues every prompt.

        The whole sequence is computed anew for every token: for a glance at a model, not for
        serving one.

        Args:
          model, params: the language model.
          vocabulary: encodes prompts and decodes continuations.
          prompts: texts.
          length: of the sequences the model was trained on; prompt and continuation fit in it.

        Returns:
          The continuations, without the prompts, up to the end mark.

        Raises:
          UserError: a prompt leaves no room for one token.
        """
        encoded = [vocabulary.encode(prompt) for prompt in prompts]
        for prompt, ids in zip(prompts, encoded, strict=True):
            if len(ids) + 1 >= length:
                raise UserError(f'The prompt {prompt[:40]!r} has {len(ids)} tokens; the model reads {length}.')
        tokens = np.zeros((len(prompts), length), np.int32)  # position 0 holds the start mark 0
        for row, ids in enumerate(encoded):
            tokens[row, 1 : 1 + len(ids)] = ids
        starts = np.array([len(ids) + 1 for ids in encoded], np.int32)
        rng = jax.random.key(self.seed)
        filled = np.asarray(self._fill(model, params, tokens, starts, rng))
        texts = []
        for row, start in zip(filled, starts, strict=True):
            continuation = row[start : start + self.max_tokens].tolist()
            if _EOS_ID in continuation:
                continuation = continuation[: continuation.index(_EOS_ID)]
            texts.append(vocabulary.decode(continuation))
        return texts

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def _fill(self, model, params, tokens_BL, starts_B, rng):
        length = tokens_BL.shape[1]
        last = jnp.minimum(length, starts_B + self.max_tokens)
        row_rngs = jax.random.split(rng, tokens_BL.shape[0])

        def body(position, tokens_BL):
            h_BLD = model.apply({'params': params}, tokens_BL, method='features')
            h_B1D = jax.lax.dynamic_slice_in_dim(h_BLD, position - 1, 1, axis=1)
            logits_BV = model.apply({'params': params}, h_B1D, method=lambda m, h: m.embed.attend(h))[:, 0]
            next_B = self.choose(logits_BV, jax.vmap(jax.random.fold_in, (0, None))(row_rngs, position))
            ours = (position >= starts_B) & (position < last)
            return tokens_BL.at[:, position].set(jnp.where(ours, next_B, tokens_BL[:, position]))

        return jax.lax.fori_loop(starts_B.min(), last.max(), body, tokens_BL)

    def choose(self, logits_BV: jax.Array, rngs_B: jax.Array) -> jax.Array:
        """A token a row: the most likely one, or one drawn from the nucleus with the row's key."""
        if self.temperature == 0:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        p_BV = jax.nn.softmax(logits_BV / self.temperature, axis=-1)
        sorted_BV = -jnp.sort(-p_BV, axis=-1)
        before_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV
        smallest_B = jnp.min(jnp.where(before_BV < self.top_p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        nucleus_BV = jnp.where(p_BV >= smallest_B, jnp.log(p_BV), -jnp.inf)
        return jax.vmap(jax.random.categorical)(rngs_B, nucleus_BV).astype(jnp.int32)
