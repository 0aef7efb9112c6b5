"""Log-likelihoods of given completions."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.inference.completion import Codec
from palm_jax.inference.generate import batches, drawable_ids, next_power_of_two
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

    A prompt with several completions, such as a question with its choices, is read once.

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
    drawable_V = np.ones(num_ids, bool) if vocabulary is None else drawable_ids(vocabulary, num_ids)
    results: list[Likelihood] = [Likelihood((), True)] * len(pairs)
    shared, alone = _by_prompt(pairs, length)
    for at, found in itertools.chain(
        _of_whole(model, params, {i: pairs[i] for i in alone}, length, batch_size, drawable_V),
        _of_shared(model, params, shared, pairs, length, batch_size, drawable_V),
    ):
        results[at] = found
    return results


def _by_prompt(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], length: int
) -> tuple[dict[tuple[int, ...], list[int]], list[int]]:
    """Return the pairs by prompt where reading it once saves half of the tokens or more, and all others."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for i, (prompt, _) in enumerate(pairs):
        by_prompt.setdefault(tuple(prompt), []).append(i)
    shared, alone = {}, []
    for prompt, members in by_prompt.items():
        longest = max(len(pairs[i][1]) for i in members)
        once, each = len(prompt) + len(members) * longest, len(members) * (len(prompt) + longest)
        if len(prompt) > 0 and len(prompt) + longest <= length + 1 and longest > 0 and 2 * once <= each:
            shared[prompt] = members
        else:
            alone += members
    return shared, alone


def _of_whole(
    model: Model,
    params: Any,
    pairs: Mapping[int, tuple[Sequence[int], Sequence[int]]],
    length: int,
    batch_size: int,
    drawable_V: np.ndarray,
) -> Iterator[tuple[int, Likelihood]]:
    """Yield the likelihood of every pair that has one, from prompt and completion as one text."""
    numbers = list(pairs)
    whole = [[*prompt, *completion][-(length + 1) :] for prompt, completion in pairs.values()]
    if not any(len(ids) > 1 for ids in whole):
        return
    for rows, inputs, _ in batches([ids[:-1] for ids in whole], batch_size, length, 'scoring'):
        targets = np.zeros_like(inputs)
        for row, i in enumerate(rows):
            targets[row, : max(len(whole[i]) - 1, 0)] = whole[i][1:]
        logprobs, is_argmax = map(np.asarray, _of_targets(model, params, inputs, targets, drawable_V))
        for row, i in enumerate(rows):
            end = max(len(whole[i]) - 1, 0)
            kept = slice(max(0, end - len(pairs[numbers[i]][1])), end)
            yield numbers[i], Likelihood(tuple(logprobs[row, kept].tolist()), bool(is_argmax[row, kept].all()))


def _of_shared(
    model: Model,
    params: Any,
    shared: Mapping[tuple[int, ...], Sequence[int]],
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    length: int,
    batch_size: int,
    drawable_V: np.ndarray,
) -> Iterator[tuple[int, Likelihood]]:
    """Yield the likelihood of every completion of the prompts, each of which is read once.

    The last token of a prompt is read with the completions, whose first token follows from it.
    """
    if not shared:
        return
    prompts = list(shared)
    for rows, tokens, _ in batches(prompts, max(1, batch_size // 4), length, 'scoring'):
        members = [(row, i) for row, number in enumerate(rows) for i in shared[prompts[number]]]
        members.sort(key=lambda member: len(pairs[member[1]][1]))
        widths = [next_power_of_two(len(pairs[i][1]), 4) for _, i in members]
        cache = _read(model, params, tokens, widths[-1])
        for start in range(0, len(members), batch_size):
            part, width = members[start : start + batch_size], max(widths[start : start + batch_size])
            inputs, targets = np.zeros((2, batch_size, width), np.int32)
            of_row, first = np.zeros((2, batch_size), np.int32)
            for k, (row, i) in enumerate(part):
                prompt, completion = pairs[i]
                of_row[k], first[k] = row, len(prompt) - 1
                inputs[k, : len(completion)] = [prompt[-1], *completion[:-1]]
                targets[k, : len(completion)] = completion
            found = _of_targets(model, params, inputs, targets, drawable_V, _Beginnings(cache, of_row, first))
            logprobs, is_argmax = map(np.asarray, found)
            for k, (_, i) in enumerate(part):
                kept = slice(len(pairs[i][1]))
                yield i, Likelihood(tuple(logprobs[k, kept].tolist()), bool(is_argmax[k, kept].all()))


@flax.struct.dataclass
class _Beginnings:
    """What has been read of prompts.

    Attributes:
      cache: keys and values of R prompts in every layer.
      row: prompt of each of B rows, int32 [B].
      length: tokens of it that are valid, int32 [B].
    """

    cache: Any
    row: Any
    length: Any


@functools.partial(jax.jit, static_argnames=('model', 'room'))
def _read(model, params, tokens_RP, room):
    """Return the keys and values of prompts in every layer, with room for tokens after them."""
    _, state = model.apply({'params': params}, tokens_RP, method='features', mutable=['cache'])
    at_length = lambda c: [(0, room if axis == c.ndim - 3 else 0) for axis in range(c.ndim)]  # noqa: E731
    return jax.tree.map(lambda c: jnp.pad(c, at_length(c)), state['cache'])


@functools.partial(jax.jit, static_argnums=0)
def _of_targets(model, params, inputs_BL, targets_BL, drawable_V, beginnings=None):
    """Return the log-probability of every target, and whether it is the most probable token, [B, L]."""
    if beginnings is None:
        h_BLD = model.apply({'params': params}, inputs_BL, method='features')
    else:
        cache = jax.tree.map(lambda c: jnp.take(c, beginnings.row, axis=c.ndim - 4), beginnings.cache)
        positions_BL = beginnings.length[:, None] + jnp.arange(inputs_BL.shape[1])
        variables = {'params': params, 'cache': cache}
        h_BLD, _ = model.apply(variables, inputs_BL, positions_BL, method='features', mutable=['cache'])
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
