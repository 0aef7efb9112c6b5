"""Rows of text, written a token at a time over a cache of keys and values.

`prefill` reads prompts and writes the first token behind each; `decode` writes some more in every
row that has some left. A batch that is written to its end and a server whose rows come and go are
made of the same two functions. Slot p of the cache belongs to position p: what padding or an
earlier text left there is overwritten before a query stands so far.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp

from palm_jax.inference.quantization import dequantized, quantized
from palm_jax.inference.sampling import SamplingParams, choose
from palm_jax.parameters import path_name

START_ID, EOS_ID = 0, 1
Weights = Literal['stored', 'int8']


@flax.struct.dataclass
class DecodeState:
    """B texts that are being written, or free places for them.

    Attributes:
      cache: keys and values [B, M, G, K] of every layer.
      token: int32 [B], the newest token, whose keys and values are not in the cache yet.
      position: int32 [B], where it stands.
      written: int32 [B], tokens written so far.
      left: int32 [B], how many more may be written; 0 is a row that has ended, or is free.
      settings: how tokens are chosen.
      seen: bool [B, V], tokens that a row holds, or None where no row has a repetition penalty.
    """

    cache: Any
    token: jax.Array
    position: jax.Array
    written: jax.Array
    remaining: jax.Array
    sampling_params: SamplingParams
    seen_tokens: jax.Array | None = None


@flax.struct.dataclass
class Generated:
    """What T steps wrote: the first `count` of T places in every row.

    Attributes:
      tokens: int32 [B, T], an end mark included where there is one.
      count: int32 [B].
      logprobs: float32 [B, T], log-probabilities of the tokens by the model itself, before
        temperature and all that follows it; None where nobody asked.
      top_tokens, top_logprobs: [B, T, k], the likeliest tokens in each place; None like them.
    """

    tokens: jax.Array
    count: jax.Array
    logprobs: jax.Array | None = None
    top_tokens: jax.Array | None = None
    top_logprobs: jax.Array | None = None


def unstack_layers(
    model: Any, params: Any, weights: Weights = 'stored', known: dict[int, Any] | None = None
) -> tuple[Any, Any]:
    """Model and parameters as decoding wants them: every layer apart; see `PaLM.stacked`.

    Args:
      model: a `PaLM`, with methods or without; one that is laid out already stays as it is.
      params: its parameters. Those of the stack are copied.
      weights: as they are stored, or rounded to `int8`, see `quantization`.
      known: what earlier calls laid out, filled by this one: models that share arrays, adapters on
        one base, then share their copies.
    """
    if not getattr(model, 'model', model).stacked:
        return model, params
    known, num_layers = {} if known is None else known, model.arch.num_layers

    def lay_out(key_path, leaf):
        if id(leaf) not in known:
            path = path_name(key_path)
            parts = jnp.unstack(leaf) if path.startswith('stack/') else (leaf,)
            if weights == 'int8':
                parts = [quantized(path, part) for part in parts]
            known[id(leaf)] = leaf, parts  # the leaf stays, and with it its id
        return known[id(leaf)][1]

    apart = jax.tree_util.tree_map_with_path(lay_out, params)
    is_parts = lambda x: isinstance(x, list | tuple)  # noqa: E731
    pick = lambda tree, number: jax.tree.map(lambda parts: parts[number], tree, is_leaf=is_parts)  # noqa: E731
    stack = {str(number): pick(apart['stack'], number) for number in range(num_layers)}
    return model.clone(stacked=False), {name: pick(tree, 0) for name, tree in apart.items()} | {'stack': stack}


@functools.partial(jax.jit, static_argnames=('model', 'room', 'bidirectional', 'num_logprobs', 'with_penalty'))
def prefill(
    model: Any,
    params: Any,
    tokens_BP: jax.Array,
    lengths_B: jax.Array,
    left_B: jax.Array,
    sampling_params: SamplingParams,
    *,
    room: int,
    bidirectional: bool = False,
    num_logprobs: int | None = None,
    with_penalty: bool = False,
) -> tuple[DecodeState, Generated]:
    """Reads prompts, all at once, and writes the first token behind each.

    Args:
      model, params: laid out, see `unstack_layers`.
      tokens_BP: int32, prompts of `lengths_B` tokens with their start marks; padding behind them.
      lengths_B: int32, at least 1.
      left_B: int32, how many tokens may be written; 0 leaves a row free.
      settings: how tokens are chosen.
      room: cache places behind P, for what will be written.
      bidirectional: prompts see themselves both ways, as of a prefix LM.
      num_logprobs: likeliest tokens whose log-probabilities are told; 0 tells only the chosen one's,
        None nothing.
      with_penalty: whether a row, now or later, has a repetition penalty.
    """
    variables = {'params': dequantized(params, model.arch.dtype)}
    h_BD, cache = read(model, variables, tokens_BP, lengths_B, room, bidirectional)
    B, P = tokens_BP.shape
    seen_BV = None
    if with_penalty:
        seen_BV = jnp.zeros((B, model.arch.vocab_size), bool)
        is_text_BP = (jnp.arange(P) < lengths_B[:, None]) & (tokens_BP > EOS_ID)
        seen_BV = seen_BV.at[jnp.arange(B)[:, None], tokens_BP].max(is_text_BP)
    state = DecodeState(
        cache=cache,
        token=jnp.zeros(B, jnp.int32),
        position=lengths_B - 1,
        written=jnp.zeros(B, jnp.int32),
        remaining=left_B,
        sampling_params=sampling_params,
        seen_tokens=seen_BV,
    )
    state, written = _append(model, variables, state, h_BD, num_logprobs)
    widened = jax.tree.map(lambda x: x[:, None], written.replace(count=None))
    return state, widened.replace(count=written.count)


def read(
    model: Any, variables: Any, tokens_BP: jax.Array, lengths_B: jax.Array, room: int, bidirectional: bool = False
) -> tuple[jax.Array, Any]:
    """Features [B, D] of the last tokens of prompts, and the cache with `room` places more."""
    inside_BP = (jnp.arange(tokens_BP.shape[1]) < lengths_B[:, None]).astype(jnp.int32)
    context = (None, None, inside_BP if bidirectional else None)
    h_BPD, cache = model.apply(variables, tokens_BP, *context, method='features', mutable=['cache'])
    cache = jax.tree.map(lambda c: jnp.pad(c, [(0, 0), (0, room), (0, 0), (0, 0)]), cache['cache'])
    return jnp.take_along_axis(h_BPD, (lengths_B - 1)[:, None, None], axis=1)[:, 0], cache


@functools.partial(jax.jit, static_argnames=('model', 'steps', 'num_logprobs'), donate_argnames='state')
def decode(
    model: Any, params: Any, state: DecodeState, *, steps: int, num_logprobs: int | None = None
) -> tuple[DecodeState, Generated]:
    """Writes up to `steps` tokens in every row that has some left; arguments as of `prefill`, rows are donated."""

    def step(state: DecodeState) -> tuple[DecodeState, Generated]:
        variables = {'params': dequantized(params, model.arch.dtype)}
        inputs = state.token[:, None], state.position[:, None]
        h_B1D, cache = model.apply(variables | {'cache': state.cache}, *inputs, method='features', mutable=['cache'])
        return _append(model, variables, state.replace(cache=cache['cache']), h_B1D[:, 0], num_logprobs)

    def body(carry):
        t, state, all_written = carry
        state, written = step(state)
        put = lambda everything, new: everything.at[:, t].set(new)  # noqa: E731
        count = all_written.count + written.count
        all_written = jax.tree.map(put, all_written.replace(count=None), written.replace(count=None))
        return t + 1, state, all_written.replace(count=count)

    B = state.token.shape[0]
    shapes = jax.eval_shape(step, state)[1].replace(count=None)
    nothing = jax.tree.map(lambda s: jnp.zeros((B, steps, *s.shape[1:]), s.dtype), shapes)
    nothing = nothing.replace(count=jnp.zeros(B, jnp.int32))
    unfinished = lambda carry: (carry[0] < steps) & jnp.any(carry[1].remaining > 0)  # noqa: E731
    _, state, written = jax.lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), state, nothing))
    return state, written


def _append(
    model, variables, state: DecodeState, h_BD: jax.Array, num_logprobs: int | None
) -> tuple[DecodeState, Generated]:
    """DecodeState with one more token each, chosen by the features of the newest, and that token as `Generated` [B]."""
    logits_BV = model.apply(variables, h_BD[:, None], method=lambda m, h: m.embed.attend(h))[:, 0]
    token_B = choose(logits_BV, state.sampling_params, state.written, state.seen_tokens)
    active_B = (state.remaining > 0).astype(jnp.int32)
    token_B = jnp.where(active_B, token_B, EOS_ID)
    seen_BV = state.seen_tokens
    if seen_BV is not None:
        seen_BV = seen_BV.at[jnp.arange(len(token_B)), token_B].max(token_B > EOS_ID)
    state = state.replace(
        token=token_B,
        position=state.position + active_B,
        written=state.written + active_B,
        remaining=jnp.where(token_B == EOS_ID, 0, state.remaining - active_B),
        seen_tokens=seen_BV,
    )
    written = Generated(token_B, active_B)
    if num_logprobs is not None:
        logprobs_BV = jax.nn.log_softmax(logits_BV, axis=-1)
        written = written.replace(logprobs=jnp.take_along_axis(logprobs_BV, token_B[:, None], axis=1)[:, 0])
    if num_logprobs:
        values, tokens = jax.lax.top_k(logprobs_BV, num_logprobs)
        written = written.replace(top_tokens=tokens, top_logprobs=values)
    return state, written


@functools.partial(jax.jit, donate_argnames='state')
def insert(state: DecodeState, new: DecodeState, slots_b: jax.Array) -> DecodeState:
    """Puts rows that `prefill` has made into places of others, whose cache is at least as long.

    Args:
      rows: [B], donated.
      new: [b].
      slots_b: int32, the row each becomes; what is beyond B is left out.
    """

    def put(x, y):
        if x.ndim == 4:  # keys and values
            return x.at[slots_b, : y.shape[1]].set(y, mode='drop')
        return x.at[slots_b].set(y, mode='drop')

    return jax.tree.map(put, state, new)


@functools.partial(jax.jit, donate_argnames='state')
def stop(state: DecodeState, keep_B: jax.Array) -> DecodeState:
    """Ends the rows whose `keep_B` is False."""
    return state.replace(remaining=jnp.where(keep_B, state.remaining, 0))


def empty_state(model: Any, params: Any, size: int, length: int, sampling_params: SamplingParams) -> DecodeState:
    """So many free places for texts of up to `length` tokens.

    Args:
      model, params: laid out.
      size: B.
      length: prompt and continuation together.
      settings: arrays [B] of the right dtypes.
    """
    ones = jnp.ones((size, 1), jnp.int32)
    make = functools.partial(prefill, model, room=length - 1, with_penalty=True)
    shapes, _ = jax.eval_shape(make, params, ones, ones[:, 0], ones[:, 0], sampling_params)
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
