"""The next token: the most probable one, or a sample after temperature, top-k, top-p and min-p."""

from __future__ import annotations

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray
_TINY = float(np.finfo(np.float32).tiny)  # below it, a CPU takes a float32 for 0
# Beyond these, float32 would over- or underflow and forget which token is likeliest; the probabilities are the same.
_LARGEST_PENALTY, _LARGEST_TEMPERATURE = 1e20, 1e6


@flax.struct.dataclass
class SamplingParams:
    """Sampling parameters of B rows, as arrays [B]: changing a value does not recompile.

    Attributes:
      temperature: divisor of the logits; 0 takes the most probable token.
      top_k: number of most probable tokens to keep; 0 keeps all (Fan et al., arXiv 1805.04833).
      top_p: smallest set of the tokens left by top-k whose probabilities sum to this
        (Holtzman et al., arXiv 1904.09751).
      min_p: minimum probability relative to the most probable token (Nguyen et al., arXiv 2407.01082).
      repetition_penalty: divisor of positive logits, and factor of negative ones, of tokens that the
        row already contains (Keskar et al., arXiv 1909.05858); 1 applies none.
      seed: random seed. Random choices depend on it, on `number`, `sample` and the number of generated tokens.
      number: index of the row's prompt.
      sample: index of the completion among those of its prompt.
      bias_ids: ids of K tokens whose logits are raised or lowered, int32 [B, K]; ids that the model lacks are none.
        None if no row has any.
      bias: what is added to their logits, float32 [B, K]; None if no row has any.
    """

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    repetition_penalty: Array
    seed: Array
    number: Array
    sample: Array
    bias_ids: Array | None = None
    bias: Array | None = None


def choose(
    logits_BV: jax.Array,
    sampling_params: SamplingParams,
    generated_B: jax.Array,
    seen_BV: jax.Array | None = None,
    drawable_V: Array | None = None,
) -> jax.Array:
    """Choose the next token of every row, int32 [B].

    However extreme the parameters are, the most probable token stays a candidate.

    Args:
      logits_BV: logits of the model, float32.
      sampling_params: sampling parameters of the rows.
      generated_B: number of tokens that each row has generated, int32.
      seen_BV: tokens that each row contains, bool; None if no row has a repetition penalty.
      drawable_V: ids that may be chosen, bool, at least one; None is all of them.
    """
    if seen_BV is not None:
        logits_BV = penalized(logits_BV, sampling_params.repetition_penalty, seen_BV)
    if sampling_params.bias is not None:
        has_bias = jnp.any(sampling_params.bias != 0)
        logits_BV = jax.lax.cond(has_bias, lambda x: biased(x, sampling_params), lambda x: x, logits_BV)
    if drawable_V is not None:
        logits_BV = jnp.where(drawable_V, logits_BV, -jnp.inf)

    def draw(logits_BV):
        temperature_B1 = jnp.minimum(sampling_params.temperature, _LARGEST_TEMPERATURE)[:, None]
        is_greedy_B1 = temperature_B1 < _TINY
        logits_BV -= logits_BV.max(axis=-1, keepdims=True)  # 0 remains 0 at the lowest temperature
        logits_BV = logits_BV / jnp.where(is_greedy_B1, 1.0, temperature_B1)
        cuts = jnp.any((sampling_params.top_k > 0) | (sampling_params.top_p < 1) | (sampling_params.min_p > 0))
        logits_BV = jax.lax.cond(cuts, lambda x: truncated(x, sampling_params), lambda x: x, logits_BV)
        drawn_B = jax.vmap(jax.random.categorical)(_keys(sampling_params, generated_B), logits_BV)
        return jnp.where(is_greedy_B1[:, 0], jnp.argmax(logits_BV, axis=-1), drawn_B)

    # Greedy rows need neither random numbers nor a sorted vocabulary.
    is_any_drawn = jnp.any(sampling_params.temperature > 0)
    return jax.lax.cond(is_any_drawn, draw, lambda x: jnp.argmax(x, axis=-1), logits_BV).astype(jnp.int32)


def penalized(logits_BV: jax.Array, penalty_B: Array, seen_BV: jax.Array) -> jax.Array:
    """Apply the repetition penalty to seen tokens; see `SamplingParams.repetition_penalty`."""
    penalty_B1 = jnp.clip(penalty_B, 1 / _LARGEST_PENALTY, _LARGEST_PENALTY)[:, None]
    return jnp.where(seen_BV, jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1), logits_BV)


def biased(logits_BV: jax.Array, sampling_params: SamplingParams) -> jax.Array:
    """Add the biases of tokens; see `SamplingParams.bias`."""
    rows_B1 = jnp.arange(len(logits_BV))[:, None]
    return logits_BV.at[rows_B1, sampling_params.bias_ids].add(sampling_params.bias, mode='drop')


def truncated(logits_BV: jax.Array, sampling_params: SamplingParams) -> jax.Array:
    """Mask with -inf what top-k, then top-p, then min-p remove; tokens tied with the last kept one stay."""
    top_k_B1, top_p_B1, min_p_B1 = (
        x[:, None] for x in (sampling_params.top_k, sampling_params.top_p, sampling_params.min_p)
    )
    sorted_BV = -jnp.sort(-logits_BV, axis=-1)
    kept_BV = (top_k_B1 == 0) | (jnp.arange(sorted_BV.shape[1]) < top_k_B1)
    p_BV = jax.nn.softmax(jnp.where(kept_BV, sorted_BV, -jnp.inf), axis=-1)
    before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV
    kept_BV &= (before_BV < jnp.maximum(top_p_B1, _TINY)) | (top_p_B1 >= 1)
    smallest_B1 = jnp.min(jnp.where(kept_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    smallest_B1 = jnp.maximum(smallest_B1, sorted_BV[:, :1] + jnp.log(min_p_B1))
    return jnp.where(logits_BV >= smallest_B1, logits_BV, -jnp.inf)


def _keys(sampling_params: SamplingParams, generated_B: jax.Array) -> jax.Array:
    def key(seed, *numbers):
        return functools.reduce(jax.random.fold_in, numbers, jax.random.key(seed))

    return jax.vmap(key)(sampling_params.seed, sampling_params.number, sampling_params.sample, generated_B)
