"""Autoregressive decoding over a key-value cache.

`prefill` reads prompts and generates the first token of each completion; `decode` generates more tokens in
every row that has some remaining. Batch generation and a server whose requests come and go use the same two
functions. Slot p of the cache holds position p: whatever padding or an earlier request left there is
overgenerated before any query attends to it.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from palm_jax.inference.decoding_weights import Weights, unstack_layers
from palm_jax.inference.sampling import Array, SamplingParams, choose
from palm_jax.models.quantization import dequantize_tree
from palm_jax.special_ids import EOS_ID

__all__ = [
    'Beginning',
    'DecodeState',
    'Generated',
    'Weights',
    'decode',
    'empty_state',
    'insert',
    'prefill',
    'read',
    'stop',
    'unstack_layers',
]


@flax.struct.dataclass
class DecodeState:
    """The state of B sequences being generated, or of empty rows.

    Attributes:
      cache: keys and values [B, M, G, K] of every layer.
      last_token: newest token of each row, int32 [B]; its keys and values are not in the cache yet.
      position: position of `last_token`, int32 [B].
      num_generated: number of tokens generated so far, int32 [B].
      remaining: number of tokens that may still be generated, int32 [B]; 0 if the row has finished or is empty.
      sampling_params: sampling parameters of each row.
      seen_tokens: tokens that a row contains, bool [B, V]; None if no row has a repetition penalty.
    """

    cache: Any
    last_token: jax.Array
    position: jax.Array
    num_generated: jax.Array
    remaining: jax.Array
    sampling_params: SamplingParams
    seen_tokens: jax.Array | None = None


@flax.struct.dataclass
class Generated:
    """The tokens of T decoding steps; the first `count` of each row are valid.

    Attributes:
      tokens: generated tokens, int32 [B, T], including EOS.
      count: number of valid tokens of each row, int32 [B].
      logprobs: log-probabilities of `tokens` under the model, float32 [B, T], before temperature and
        truncation; None if they were not requested.
      top_tokens: k most probable tokens at each position, int32 [B, T, k]; None if they were not requested.
      top_logprobs: log-probabilities of `top_tokens`, float32 [B, T, k]; None if they were not requested.
    """

    tokens: jax.Array
    count: jax.Array | None
    logprobs: jax.Array | None = None
    top_tokens: jax.Array | None = None
    top_logprobs: jax.Array | None = None


@flax.struct.dataclass
class Beginning:
    """What is known of the beginnings of B prompts, so that only the tokens after them are read.

    Attributes:
      cache: keys and values [B, M, G, K] of every layer; those of a row's first `length` tokens are valid.
      length: number of tokens of each beginning, int32 [B], less than that of the prompt.
      num_new: number of tokens that are read after the beginning of every row.
    """

    cache: Any
    length: Array
    num_new: int = flax.struct.field(pytree_node=False)


@functools.partial(jax.jit, static_argnames=('model', 'room', 'bidirectional', 'num_logprobs', 'with_penalty'))
def prefill(
    model: Any,
    params: Any,
    tokens_BP: jax.Array,
    lengths_B: jax.Array,
    remaining_B: jax.Array,
    sampling_params: SamplingParams,
    *,
    room: int,
    bidirectional: bool = False,
    num_logprobs: int | None = None,
    with_penalty: bool = False,
    drawable_V: Array | None = None,
    beginning: Beginning | None = None,
) -> tuple[DecodeState, Generated]:
    """Read prompts in one pass and generate the first token of each completion.

    Args:
      model: unstacked model, see `unstack_layers`.
      params: parameters of `model`.
      tokens_BP: prompts including BOS, int32, right-padded.
      lengths_B: prompt lengths in tokens, int32, at least 1.
      remaining_B: maximum number of tokens to generate, int32; 0 leaves the row empty.
      sampling_params: sampling parameters of each row.
      room: number of cache slots after P, for generated tokens.
      bidirectional: whether prompt tokens attend to each other in both directions (prefix LM).
      num_logprobs: number of most probable tokens to report with log-probabilities at each step; 0 reports
        the chosen token's only, None nothing.
      with_penalty: whether any row, now or later, has a repetition penalty.
      drawable_V: ids that may be generated and reported, bool; None is all of them.
      beginning: what is known of the prompts' beginnings; requires `bidirectional = False`. None reads whole prompts.

    Returns:
      The state [B] and the first generated tokens [B, 1].
    """
    variables = {'params': dequantize_tree(params, model.arch.dtype)}
    h_BD, cache = read(model, variables, tokens_BP, lengths_B, room, bidirectional, beginning)
    B, P = tokens_BP.shape
    seen_BV = None
    if with_penalty:
        seen_BV = jnp.zeros((B, model.arch.vocab_size), bool)
        is_text_BP = (jnp.arange(P) < lengths_B[:, None]) & (tokens_BP > EOS_ID)
        seen_BV = seen_BV.at[jnp.arange(B)[:, None], tokens_BP].max(is_text_BP)
    state = DecodeState(
        cache=cache,
        last_token=jnp.zeros(B, jnp.int32),
        position=lengths_B - 1,
        num_generated=jnp.zeros(B, jnp.int32),
        remaining=remaining_B,
        sampling_params=sampling_params,
        seen_tokens=seen_BV,
    )
    state, generated = _append(model, variables, state, h_BD, num_logprobs, drawable_V)
    widened = jax.tree.map(lambda x: x[:, None], dataclasses.replace(generated, count=None))
    return state, dataclasses.replace(widened, count=generated.count)


def read(
    model: Any,
    variables: Any,
    tokens_BP: jax.Array,
    lengths_B: jax.Array,
    room: int,
    bidirectional: bool = False,
    beginning: Beginning | None = None,
) -> tuple[jax.Array, Any]:
    """Return features [B, D] of the last prompt tokens, and the cache extended by `room` slots; see `prefill`."""
    context: tuple[Any, Any, Any]
    if beginning is None:
        inside_BP = (jnp.arange(tokens_BP.shape[1]) < lengths_B[:, None]).astype(jnp.int32)
        context, last_B = (None, None, inside_BP if bidirectional else None), lengths_B - 1
    else:
        positions_BP = beginning.length[:, None] + jnp.arange(beginning.num_new)
        tokens_BP = jnp.take_along_axis(tokens_BP, jnp.minimum(positions_BP, tokens_BP.shape[1] - 1), axis=1)
        variables = variables | {'cache': beginning.cache}
        context, last_B = (positions_BP, None, None), lengths_B - 1 - beginning.length
    h_BPD, cache = model.apply(variables, tokens_BP, *context, method='features', mutable=['cache'])
    cache = jax.tree.map(lambda c: jnp.pad(c, [(0, 0), (0, room), (0, 0), (0, 0)]), cache['cache'])
    return jnp.take_along_axis(h_BPD, last_B[:, None, None], axis=1)[:, 0], cache


@functools.partial(jax.jit, static_argnames=('model', 'steps', 'num_logprobs'), donate_argnames='state')
def decode(
    model: Any,
    params: Any,
    state: DecodeState,
    *,
    steps: int,
    num_logprobs: int | None = None,
    drawable_V: Array | None = None,
) -> tuple[DecodeState, Generated]:
    """Generate up to `steps` tokens in every row that has some remaining; `state` is donated. See `prefill`."""

    def step(state: DecodeState) -> tuple[DecodeState, Generated]:
        variables = {'params': dequantize_tree(params, model.arch.dtype)}
        inputs = state.last_token[:, None], state.position[:, None]
        h_B1D, cache = model.apply(variables | {'cache': state.cache}, *inputs, method='features', mutable=['cache'])
        state = dataclasses.replace(state, cache=cache['cache'])
        return _append(model, variables, state, h_B1D[:, 0], num_logprobs, drawable_V)

    def body(carry):
        t, state, all_generated = carry
        state, generated = step(state)
        put = lambda everything, new: everything.at[:, t].set(new)  # noqa: E731
        count = all_generated.count + generated.count
        all_generated = jax.tree.map(
            put, dataclasses.replace(all_generated, count=None), dataclasses.replace(generated, count=None)
        )
        return t + 1, state, dataclasses.replace(all_generated, count=count)

    B = state.last_token.shape[0]
    shapes = dataclasses.replace(jax.eval_shape(step, state)[1], count=None)
    nothing = jax.tree.map(lambda s: jnp.zeros((B, steps, *s.shape[1:]), s.dtype), shapes)
    nothing = dataclasses.replace(nothing, count=jnp.zeros(B, jnp.int32))
    unfinished = lambda carry: (carry[0] < steps) & jnp.any(carry[1].remaining > 0)  # noqa: E731
    _, state, generated = jax.lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), state, nothing))
    return state, generated


def _append(
    model, variables, state: DecodeState, h_BD: jax.Array, num_logprobs: int | None, drawable_V: Array | None
) -> tuple[DecodeState, Generated]:
    """Append one token to every row, chosen from the features of the newest; return the state and the tokens [B]."""
    logits_BV = model.apply(variables, h_BD[:, None], method=lambda m, h: m.embed.attend(h))[:, 0]
    token_B = choose(logits_BV, state.sampling_params, state.num_generated, state.seen_tokens, drawable_V)
    active_B = (state.remaining > 0).astype(jnp.int32)
    token_B = jnp.where(active_B, token_B, EOS_ID)
    seen_BV = state.seen_tokens
    if seen_BV is not None:
        seen_BV = seen_BV.at[jnp.arange(len(token_B)), token_B].max(token_B > EOS_ID)
    state = dataclasses.replace(
        state,
        last_token=token_B,
        position=state.position + active_B,
        num_generated=state.num_generated + active_B,
        remaining=jnp.where(token_B == EOS_ID, 0, state.remaining - active_B),
        seen_tokens=seen_BV,
    )
    generated = Generated(token_B, active_B)
    if num_logprobs is not None:
        logprobs_BV = jax.nn.log_softmax(logits_BV, axis=-1)
        generated = dataclasses.replace(
            generated, logprobs=jnp.take_along_axis(logprobs_BV, token_B[:, None], axis=1)[:, 0]
        )
    if num_logprobs:
        reported_BV = logprobs_BV if drawable_V is None else jnp.where(drawable_V, logprobs_BV, -jnp.inf)
        values, tokens = jax.lax.top_k(reported_BV, min(num_logprobs, reported_BV.shape[1]))
        generated = dataclasses.replace(generated, top_tokens=tokens, top_logprobs=values)
    return state, generated


@functools.partial(jax.jit, donate_argnames='state')
def insert(state: DecodeState, new: DecodeState, slots_b: jax.Array) -> DecodeState:
    """Copy prefilled rows into slots of a running state whose cache is at least as long.

    Args:
      state: running state [B]; donated.
      new: state of the new rows [b].
      slots_b: destination row of each new row, int32; rows with a destination of B or more are dropped.
    """

    def put(x, y):
        if x.ndim == 4:  # keys and values
            return x.at[slots_b, : y.shape[1]].set(y, mode='drop')
        return x.at[slots_b].set(y, mode='drop')

    return jax.tree.map(put, state, new)


@functools.partial(jax.jit, donate_argnames='state')
def stop(state: DecodeState, keep_B: jax.Array) -> DecodeState:
    """Finish the rows whose `keep_B` is False."""
    return dataclasses.replace(state, remaining=jnp.where(keep_B, state.remaining, 0))


def empty_state(model: Any, params: Any, size: int, length: int, sampling_params: SamplingParams) -> DecodeState:
    """Return a state of empty rows.

    Args:
      model: unstacked model.
      params: parameters of `model`.
      size: number of rows B.
      length: context length: maximum tokens of prompt and completion together.
      sampling_params: arrays [B] with the dtypes that later rows will have.
    """
    ones = jnp.ones((size, 1), jnp.int32)
    make = functools.partial(prefill, model, room=length - 1, with_penalty=True)
    shapes, _ = jax.eval_shape(make, params, ones, ones[:, 0], ones[:, 0], sampling_params)
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
