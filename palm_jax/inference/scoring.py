"""Log-likelihoods of given completions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.inference.completion import Codec
from palm_jax.inference.generate import batches, drawable_ids
from palm_jax.models.model import Model

_CHUNK = 64  # positions whose logits are in memory at a time


class Likelihood(NamedTuple):
    """The likelihood of a completion.

    Attributes:
      logprobs: log-probability of every token.
      is_greedy: whether greedy decoding would generate exactly this completion.
    """

    logprobs: tuple[float, ...]
    is_greedy: bool

    @property
    def total(self) -> float:
        """The log-likelihood: the sum of `logprobs`."""
        return sum(self.logprobs)


def likelihoods(
    model: Model,
    params: Any,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    length: int,
    batch_size: int = 32,
    vocabulary: Codec | None = None,
) -> list[Likelihood]:
    """Compute the likelihood of completions given their prompts.

    Args:
      model: language model.
      params: parameters of `model`.
      pairs: (prompt including the start token, completion), token ids; pairs longer than `length` lose their
        beginning. After an empty prompt the first token of a completion follows from nothing and is not scored.
      length: context length in tokens.
      batch_size: number of pairs scored together.
      vocabulary: vocabulary of the completions, which says what greedy decoding may generate; None is every id.
    """
    num_ids = model.arch.vocab_size
    drawable = np.ones(num_ids, bool) if vocabulary is None else drawable_ids(vocabulary, num_ids)
    whole = [[*prompt, *completion][-(length + 1) :] for prompt, completion in pairs]
    results: list[Likelihood] = [Likelihood((), True)] * len(pairs)
    if not any(len(ids) > 1 for ids in whole):
        return results
    for rows, inputs, _ in batches([ids[:-1] for ids in whole], batch_size, length):
        targets = np.zeros_like(inputs)
        for row, i in enumerate(rows):
            targets[row, : max(len(whole[i]) - 1, 0)] = whole[i][1:]
        logprobs, is_argmax = map(np.asarray, _of_targets(model, params, inputs, targets, drawable))
        for row, i in enumerate(rows):
            end = max(len(whole[i]) - 1, 0)
            kept = slice(max(0, end - len(pairs[i][1])), end)
            results[i] = Likelihood(tuple(logprobs[row, kept].tolist()), bool(is_argmax[row, kept].all()))
    return results


@functools.partial(jax.jit, static_argnums=0)
def _of_targets(model, params, inputs_BL, targets_BL, drawable_V):
    """Return the log-probability of every target, and whether it is the most probable token, [B, L]."""
    h_BLD = model.apply({'params': params}, inputs_BL, method='features')
    B, L, D = h_BLD.shape
    padding = -L % min(_CHUNK, L)
    h_BLD = jnp.pad(h_BLD, [(0, 0), (0, padding), (0, 0)])
    targets_BL = jnp.pad(targets_BL, [(0, 0), (0, padding)])
    num_chunks = (L + padding) // min(_CHUNK, L)

    def of_chunk(chunk):
        h_BlD, targets_Bl = chunk
        logits_BlV = model.apply({'params': params}, h_BlD, method=lambda m, h: m.embed.attend(h))
        logprobs_BlV = jax.nn.log_softmax(logits_BlV)
        chosen_Bl = jnp.take_along_axis(logprobs_BlV, targets_Bl[..., None], axis=-1)[..., 0]
        return chosen_Bl, jnp.argmax(jnp.where(drawable_V, logits_BlV, -jnp.inf), axis=-1) == targets_Bl

    chunks = (h_BLD.reshape(B, num_chunks, -1, D).swapaxes(0, 1), targets_BL.reshape(B, num_chunks, -1).swapaxes(0, 1))
    return tuple(x.swapaxes(0, 1).reshape(B, -1)[:, :L] for x in jax.lax.map(of_chunk, chunks))
