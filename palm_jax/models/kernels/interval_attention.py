"""Attention for GPUs in which every query attends to an interval of the keys, without an array [B, L, M].

Packed sequences, padding, prefixes and windows all are intervals. The kernels are FlashAttention-2 (arXiv 2307.08691)
in Pallas: a block of queries reads only the blocks of keys between its first and its last one, so that eight documents
in a row cost an eighth of one. Sums are added in one order: the same inputs give the same bits.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from palm_jax.models.kernels.over_mesh import map_over_mesh
from palm_jax.models.masks import Mask

_LOG2_E = math.log2(math.e)  # GPUs have an instruction for powers of 2
_MASKED = -1e30  # finite: a row without any key would make NaN of an infinity


class _Blocks(NamedTuple):
    """Sizes of one kernel: queries and keys in a block, warps, and stages of the pipeline of loads."""

    queries: int
    keys: int
    warps: int
    stages: int


class _Kernels(NamedTuple):
    """Sizes of the forward pass, of the gradient by queries, and of that by keys and values."""

    forward: _Blocks
    queries: _Blocks
    keys: _Blocks


_SMALL = _Kernels(_Blocks(128, 64, 4, 3), _Blocks(64, 64, 4, 3), _Blocks(64, 64, 4, 3))
_LARGE = _Kernels(_Blocks(64, 64, 8, 2), _Blocks(64, 32, 8, 2), _Blocks(32, 64, 8, 2))


def applies(q_BLHK: jax.Array, k_BMGK: jax.Array, mask: Mask) -> bool:
    """Whether L = M is a multiple of 128, K is at most 256, and the mask consists of intervals."""
    L, K = q_BLHK.shape[1], q_BLHK.shape[3]
    is_square = k_BMGK.shape[1] == L and mask.query_positions is None and mask.num_prefix == 0
    return is_square and L % 128 == 0 and K <= 256


def intervals(mask: Mask, batch: int, length: int) -> tuple[jax.Array, jax.Array]:
    """Return the first key that each query attends to, and the one after its last.

    Both never decrease along a row: a segment is a run of equal ids, and a prefix is the beginning of a segment.

    Args:
      mask: mask with one key per query and without a prefix of further keys.
      batch: number of rows B.
      length: number of queries L.

    Returns:
      int32 [B, L] each.
    """
    position_BL = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
    start_BL, end_BL = jnp.zeros_like(position_BL), position_BL + 1
    begins_BL = position_BL == 0
    if mask.segment_ids is not None:
        ids_BL = jnp.broadcast_to(mask.segment_ids, (batch, length))
        begins_BL |= jnp.diff(ids_BL, axis=1, prepend=ids_BL[:, :1]) != 0
        start_BL = jax.lax.cummax(jnp.where(begins_BL, position_BL, 0), axis=1)
    if mask.causal_attention is not None:
        in_prefix_BL = jnp.broadcast_to(mask.causal_attention > 0, (batch, length))
        # The end of the run of queries that are in the same prefix: the next position that is not.
        changes_BL = begins_BL | ~in_prefix_BL
        after_BL = jnp.where(changes_BL, position_BL, length)
        after_BL = jnp.pad(after_BL[:, 1:], ((0, 0), (0, 1)), constant_values=length)
        next_BL = jax.lax.cummin(after_BL, axis=1, reverse=True)
        end_BL = jnp.where(in_prefix_BL, next_BL, end_BL)
    if mask.window is not None:
        start_BL = jnp.maximum(start_BL, position_BL - mask.window + 1)
        end_BL = jnp.minimum(end_BL, position_BL + mask.window)
    return start_BL, end_BL


def attend(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: Mask,
    interpret: bool = False,
    kernels: _Kernels | None = None,
) -> jax.Array:
    """softmax(q·kᵀ / √K)·v of every query head with its key/value head.

    Args:
      q_BLHK: rotated queries; see `applies`.
      k_BMGK: rotated keys; M = L.
      v_BMGK: values.
      mask: mask that consists of intervals.
      interpret: run the kernels without a GPU, slowly.
      kernels: sizes of the kernels; None chooses them by K.

    Returns:
      [B, L, H, K] in q's dtype.
    """
    B, L, _, K = q_BLHK.shape
    kernels = kernels or (_SMALL if K <= 128 else _LARGE)
    kernel = functools.partial(_attend, kernels=kernels, scale=K**-0.5, interpret=interpret)
    # Blocks of a kernel have sizes that are powers of 2, and 16 at least.
    padding = [(0, 0)] * 3 + [(0, max(16, pl.next_power_of_2(K)) - K)]
    inputs = (jnp.pad(x, padding) for x in (q_BLHK, k_BMGK, v_BMGK))
    return map_over_mesh(kernel, *inputs, *intervals(mask, B, L))[..., :K]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attend(q, k, v, start, end, kernels, scale, interpret):
    return _forward(q, k, v, start, end, kernels, scale, interpret)[0]


def _forward(q, k, v, start, end, kernels, scale, interpret):
    B, L, H, K = q.shape
    blocks, heads_per_group = kernels.forward, H // k.shape[2]
    whole = pl.BlockSpec((None, L, None, K), lambda i, b, h: (b, 0, h // heads_per_group, 0))
    of_block = pl.BlockSpec((None, blocks.queries, None, K), lambda i, b, h: (b, i, h, 0))
    row = pl.BlockSpec((None, blocks.queries), lambda i, b, h: (b, i))
    y, lse = pl.pallas_call(
        functools.partial(_forward_kernel, block=blocks.keys, scale=scale * _LOG2_E),
        grid=(L // blocks.queries, B, H),
        in_specs=[of_block, whole, whole, row, row],
        out_specs=[of_block, pl.BlockSpec((None, None, blocks.queries), lambda i, b, h: (b, h, i))],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((B, H, L), jnp.float32)],
        name='interval_attention',
        **_compiled(blocks, interpret),
    )(q, k, v, start, end)
    return y, (q, k, v, start, end, y, lse)


def _forward_kernel(q_ref, k_ref, v_ref, start_ref, end_ref, y_ref, lse_ref, *, block: int, scale: float):
    """One block of queries: the softmax is kept relative to the largest score so far, and corrected when that grows."""
    q_LK, start_L, end_L = q_ref[...], start_ref[...], end_ref[...]

    def body(number, carry):
        y_LK, largest_L, sum_L = carry
        keys = pl.ds(number * block, block)
        score_LM = _dot(q_LK, k_ref[keys, :].T) * scale
        score_LM = jnp.where(_allowed(number * block, block, start_L, end_L), score_LM, _MASKED)
        new_L = jnp.maximum(largest_L, score_LM.max(axis=1))
        weight_LM = jnp.exp2(score_LM - new_L[:, None])
        correction_L = jnp.exp2(largest_L - new_L)
        y_LK = y_LK * correction_L[:, None] + _dot(weight_LM.astype(v_ref.dtype), v_ref[keys, :])
        return y_LK, new_L, sum_L * correction_L + weight_LM.sum(axis=1)

    L, K = q_LK.shape
    nothing = jnp.zeros((L, K), jnp.float32), jnp.full((L,), _MASKED, jnp.float32), jnp.zeros((L,), jnp.float32)
    y_LK, largest_L, sum_L = jax.lax.fori_loop(*_blocks_between(start_L.min(), end_L.max(), block), body, nothing)
    y_ref[...] = (y_LK / sum_L[:, None]).astype(y_ref.dtype)
    lse_ref[...] = largest_L + jnp.log2(sum_L)


def _backward(kernels, scale, interpret, residuals, dy):
    q, k, v, start, end, y, lse = residuals
    inner = jnp.einsum('BLHK,BLHK->BHL', y, dy, preferred_element_type=jnp.float32)
    dq = _gradient_of_queries(q, k, v, start, end, dy, lse, inner, kernels.queries, scale, interpret)
    dk, dv = _gradient_of_keys(q, k, v, start, end, dy, lse, inner, kernels.keys, scale, interpret)
    return dq, dk, dv, None, None


_attend.defvjp(_forward, _backward)


def _gradient_of_queries(q, k, v, start, end, dy, lse, inner, blocks, scale, interpret):
    B, L, H, K = q.shape
    heads_per_group = H // k.shape[2]
    whole = pl.BlockSpec((None, L, None, K), lambda i, b, h: (b, 0, h // heads_per_group, 0))
    of_block = pl.BlockSpec((None, blocks.queries, None, K), lambda i, b, h: (b, i, h, 0))
    row = pl.BlockSpec((None, blocks.queries), lambda i, b, h: (b, i))
    of_head = pl.BlockSpec((None, None, blocks.queries), lambda i, b, h: (b, h, i))
    return pl.pallas_call(
        functools.partial(_queries_kernel, block=blocks.keys, scale=scale),
        grid=(L // blocks.queries, B, H),
        in_specs=[of_block, whole, whole, row, row, of_block, of_head, of_head],
        out_specs=of_block,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        name='interval_attention_gradient_of_queries',
        **_compiled(blocks, interpret),
    )(q, k, v, start, end, dy, lse, inner)


def _queries_kernel(q_ref, k_ref, v_ref, start_ref, end_ref, dy_ref, lse_ref, inner_ref, dq_ref, *, block, scale):
    """dQ = dS·K / √K of one block of queries, with dS = P ⊙ (dY·Vᵀ − Σ dY ⊙ Y)."""
    q_LK, dy_LK, start_L, end_L = q_ref[...], dy_ref[...], start_ref[...], end_ref[...]
    lse_L, inner_L = lse_ref[...], inner_ref[...]

    def body(number, dq_LK):
        keys = pl.ds(number * block, block)
        k_MK = k_ref[keys, :]
        score_LM = _dot(q_LK, k_MK.T) * (scale * _LOG2_E)
        allowed_LM = _allowed(number * block, block, start_L, end_L)
        weight_LM = jnp.where(allowed_LM, jnp.exp2(score_LM - lse_L[:, None]), 0.0)
        d_weight_LM = _dot(dy_LK, v_ref[keys, :].T)
        d_score_LM = (weight_LM * (d_weight_LM - inner_L[:, None])).astype(k_MK.dtype)
        return dq_LK + _dot(d_score_LM, k_MK)

    bounds = _blocks_between(start_L.min(), end_L.max(), block)
    dq_LK = jax.lax.fori_loop(*bounds, body, jnp.zeros(q_LK.shape, jnp.float32))
    dq_ref[...] = (dq_LK * scale).astype(dq_ref.dtype)


def _gradient_of_keys(q, k, v, start, end, dy, lse, inner, blocks, scale, interpret):
    B, L, H, K = q.shape
    G = k.shape[2]
    edges = jnp.arange(0, L, blocks.keys, dtype=jnp.int32)
    # The queries that attend to a block of keys: from the first that ends after its first key, to the last that starts
    # before its end.
    first_BJ = jax.vmap(lambda end_L: jnp.searchsorted(end_L, edges, side='right'))(end).astype(jnp.int32)
    after_BJ = jax.vmap(lambda start_L: jnp.searchsorted(start_L, edges + blocks.keys))(start).astype(jnp.int32)
    whole = pl.BlockSpec((None, L, H // G, K), lambda j, b, g: (b, 0, g, 0))
    of_block = pl.BlockSpec((None, blocks.keys, None, K), lambda j, b, g: (b, j, g, 0))
    row = pl.BlockSpec((None, L), lambda j, b, g: (b, 0))
    of_heads = pl.BlockSpec((None, H // G, L), lambda j, b, g: (b, g, 0))
    bound = pl.BlockSpec((None, None), lambda j, b, g: (b, j))
    return pl.pallas_call(
        functools.partial(_keys_kernel, block=blocks.queries, scale=scale, heads=H // G),
        grid=(L // blocks.keys, B, G),
        in_specs=[whole, of_block, of_block, row, row, whole, of_heads, of_heads, bound, bound],
        out_specs=[of_block, of_block],
        out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)],
        name='interval_attention_gradient_of_keys',
        **_compiled(blocks, interpret),
    )(q, k, v, start, end, dy, lse, inner, first_BJ, after_BJ)


def _keys_kernel(
    q_ref, k_ref, v_ref, start_ref, end_ref, dy_ref, lse_ref, inner_ref, first_ref, after_ref, dk_ref, dv_ref,
    *, block: int, scale: float, heads: int,
):  # fmt: skip
    """dV = Pᵀ·dY and dK = dSᵀ·Q / √K of one block of keys, summed over the query heads of its group."""
    k_MK, v_MK = k_ref[...], v_ref[...]
    first_key = pl.program_id(0) * k_MK.shape[0]
    lo, hi = _blocks_between(first_ref[...], after_ref[...], block)

    def body(step, carry):
        dk_MK, dv_MK = carry
        head, queries = step // (hi - lo), pl.ds((lo + step % (hi - lo)) * block, block)
        q_LK, dy_LK = q_ref[queries, head, :], dy_ref[queries, head, :]
        score_ML = _dot(k_MK, q_LK.T) * (scale * _LOG2_E)
        allowed_ML = _allowed(first_key, k_MK.shape[0], start_ref[queries], end_ref[queries]).T
        weight_ML = jnp.where(allowed_ML, jnp.exp2(score_ML - lse_ref[head, queries][None]), 0.0)
        dv_MK += _dot(weight_ML.astype(dy_LK.dtype), dy_LK)
        d_weight_ML = _dot(v_MK, dy_LK.T)
        d_score_ML = (weight_ML * (d_weight_ML - inner_ref[head, queries][None])).astype(q_LK.dtype)
        return dk_MK + _dot(d_score_ML, q_LK), dv_MK

    nothing = jnp.zeros(k_MK.shape, jnp.float32), jnp.zeros(v_MK.shape, jnp.float32)
    dk_MK, dv_MK = jax.lax.fori_loop(0, heads * jnp.maximum(hi - lo, 0), body, nothing)
    dk_ref[...] = (dk_MK * scale).astype(dk_ref.dtype)
    dv_ref[...] = dv_MK.astype(dv_ref.dtype)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """x·y, added in float32; float32 operands are not rounded to TF32."""
    return triton.dot(x, y, precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None)


def _allowed(first_key: Any, num_keys: int, start_L: jax.Array, end_L: jax.Array) -> jax.Array:
    """Whether query l attends to key first_key + m, [L, M]."""
    key_M = first_key + jnp.arange(num_keys, dtype=jnp.int32)
    return (start_L[:, None] <= key_M[None]) & (key_M[None] < end_L[:, None])


def _blocks_between(first: Any, after: Any, block: int) -> tuple[Any, Any]:
    """The blocks that hold elements first, ..., after − 1: the first, and the one after the last."""
    return jax.lax.div(first, block), jax.lax.div(after + block - 1, block)


def _compiled(blocks: _Blocks, interpret: bool) -> dict[str, Any]:
    parameters = triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages)
    return {'interpret': True} if interpret else {'compiler_params': parameters}
