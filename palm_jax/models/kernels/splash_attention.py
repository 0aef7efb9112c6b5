"""Splash attention: attention for TPUs that never writes the scores to memory.

The kernel is JAX's own (`jax.experimental.pallas.ops.tpu.splash_attention`).
"""

from __future__ import annotations

import functools

import jax
from jax.experimental.pallas.ops.tpu import splash_attention

from palm_jax.models.kernels.over_mesh import map_over_mesh
from palm_jax.models.masks import Mask

_BLOCK = 512  # largest number of queries, and of keys, in one block
_LANES = 128  # width of a TPU's vector unit


def applies(q_BLHK: jax.Array, k_BMGK: jax.Array, mask: Mask) -> bool:
    """Whether the mask is causal (packed or not) and L = M and K are multiples of 128."""
    causal = mask.causal_attention is None and mask.query_positions is None and mask.num_prefix == 0
    L, K = q_BLHK.shape[1], q_BLHK.shape[3]
    return causal and k_BMGK.shape[1] == L and L % _LANES == 0 and K % _LANES == 0


def attend(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, mask: Mask, interpret: bool = False) -> jax.Array:
    """softmax(q·kᵀ / √K)·v of every query head with its key/value head.

    Args:
      q_BLHK: rotated queries; L and K are multiples of 128.
      k_BMGK: rotated keys; M = L.
      v_BMGK: values.
      mask: causal mask with or without segments.
      interpret: run the kernel without a TPU, slowly.

    Returns:
      [B, L, H, K] in q's dtype.
    """
    kernel = functools.partial(_attend, interpret=interpret)
    return map_over_mesh(kernel, q_BLHK, k_BMGK, v_BMGK, mask.segment_ids)


def _attend(q_BLHK, k_BMGK, v_BMGK, segments_BL, interpret):
    B, L, H, K = q_BLHK.shape
    G = k_BMGK.shape[2]
    kernel = _kernel(H // G, L, interpret)
    q_BGRLK = (q_BLHK * K**-0.5).reshape(B, L, G, H // G, K).transpose(0, 2, 3, 1, 4)
    k_BGMK, v_BGMK = (x.transpose(0, 2, 1, 3) for x in (k_BMGK, v_BMGK))
    ids = None if segments_BL is None else splash_attention.SegmentIds(q=segments_BL, kv=segments_BL)
    of_sequence = jax.vmap(kernel, in_axes=(0, 0, 0, None))  # over key heads
    y_BGRLK = jax.vmap(of_sequence, in_axes=(0, 0, 0, None if ids is None else 0))(q_BGRLK, k_BGMK, v_BGMK, ids)
    return y_BGRLK.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K).astype(q_BLHK.dtype)


@functools.cache
def _mask(heads: int, length: int) -> splash_attention.MultiHeadMask:
    return splash_attention.MultiHeadMask([splash_attention.CausalMask((length, length))] * heads)


def _kernel(heads: int, length: int, interpret: bool):
    block = next(size for size in (_BLOCK, 256, _LANES) if length % size == 0)
    sizes = splash_attention.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    return splash_attention.make_splash_mqa_single_device(_mask(heads, length), block_sizes=sizes, interpret=interpret)
