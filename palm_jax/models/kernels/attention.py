"""Attention with several query heads per key/value head."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import platform_dependent
from jax.typing import DTypeLike

from palm_jax.errors import UserError
from palm_jax.models.kernels import interval_attention, splash_attention
from palm_jax.models.kernels.gpu import on_gpus
from palm_jax.models.kernels.matmul import product, transposed_product
from palm_jax.models.masks import Mask

QUERY_BLOCK = 128
LIMITED = ('splash', 'intervals')  # kernels that apply to certain masks and shapes only

Variant = Callable[[jax.Array, jax.Array, jax.Array, Mask], jax.Array]


def attend(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: Mask,
    implementation: str = 'auto',
    required: bool = True,
) -> jax.Array:
    """softmax(q·kᵀ / √K)·v of every query head with its key/value head.

    Args:
      q_BLHK: rotated queries; H is a multiple of G.
      k_BMGK: rotated keys.
      v_BMGK: values.
      mask: the keys that each query may attend to.
      implementation: `xla` or `cudnn` of `jax.nn.dot_product_attention`; `blocks`, which computes one block of queries
        at a time against only the keys it can see, and needs no transposition with one key head: the fastest on CPUs;
        `splash`, JAX's kernel for TPUs; `intervals`, kernels for GPUs that need no array [B, L, M] for packed
        sequences, prefixes and windows, and that add in one order; or `auto`: `blocks` on a CPU and for one query on a
        GPU, `cudnn` for more queries on a CUDA GPU in half precision (see `cudnn_applies`), `splash` on a TPU where it
        applies (causal attention, multiples of 128), else `xla`.
      required: whether a kernel that applies to certain masks and shapes only must apply; False takes `auto` otherwise.

    Returns:
      [B, L, H, K] in q's dtype.

    Raises:
      UserError: `splash` or `intervals` is required and does not apply to the mask or the shapes.
    """
    splash_applies = splash_attention.applies(q_BLHK, k_BMGK, mask)
    intervals_apply = interval_attention.applies(q_BLHK, k_BMGK, mask)
    if not required and not {'splash': splash_applies, 'intervals': intervals_apply}.get(implementation, True):
        implementation = 'auto'
    if implementation == 'auto':
        variants = {'cpu': attend_in_blocks, 'default': attend_with_xla}
        if splash_applies:
            variants['tpu'] = splash_attention.attend
        # cuDNN's kernel cannot be traced where cuDNN is missing.
        if jax.default_backend() == 'gpu' and cudnn_applies(q_BLHK.dtype, os.environ.get('XLA_FLAGS', '')):
            variants['cuda'] = attend_with_cudnn
        if q_BLHK.shape[1] == 1:  # a step of decoding; flash kernels pad one query to a block of 64 or 128
            variants |= on_gpus(attend_in_blocks)
        return platform_dependent(q_BLHK, k_BMGK, v_BMGK, mask, **variants)
    if implementation == 'splash' and not splash_applies:
        raise UserError(
            'palm.Architecture.attention = splash requires causal attention, with a sequence length and a head size '
            f'that are multiples of 128; here they are {q_BLHK.shape[1]} and {q_BLHK.shape[3]}. '
            '`auto` uses splash where it applies.'
        )
    if implementation == 'intervals' and not intervals_apply:
        raise UserError(
            'palm.Architecture.attention = intervals requires a sequence length that is a multiple of 128, a head size '
            f'of at most 256, and no trained prefix; here they are {q_BLHK.shape[1]}, {q_BLHK.shape[3]} and a prefix '
            f'of {mask.num_prefix}. `auto` applies to everything.'
        )
    variants = {
        'xla': attend_with_xla,
        'cudnn': attend_with_cudnn,
        'blocks': attend_in_blocks,
        'splash': _attend_with_splash_anywhere,
        'intervals': _attend_with_intervals_anywhere,
    }
    return variants[implementation](q_BLHK, k_BMGK, v_BMGK, mask)


def cudnn_applies(dtype: DTypeLike, xla_flags: str) -> bool:
    """Whether `auto` uses cuDNN's kernel on a CUDA GPU.

    Its backward pass adds in any order, and XLA refuses it in a process that asks for deterministic kernels.

    Args:
      dtype: dtype of queries, keys and values.
      xla_flags: flags of XLA in the environment, of which the last setting of a flag holds.
    """
    settings = re.findall(r'--xla_gpu_exclude_nondeterministic_ops(?:=(\w+))?', xla_flags)
    is_deterministic = bool(settings) and settings[-1].lower() not in ('false', '0')
    return dtype in (jnp.bfloat16, jnp.float16) and not is_deterministic


def reference_attend(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, mask: Mask) -> jax.Array:
    """`attend` as the formula, in float32."""
    heads_per_group = q_BLHK.shape[2] // k_BMGK.shape[2]
    q_BLHK, k_BMGK, v_BMGK = (x.astype(jnp.float32) for x in (q_BLHK, k_BMGK, v_BMGK))
    k_BMHK, v_BMHK = (jnp.repeat(x, heads_per_group, axis=2) for x in (k_BMGK, v_BMGK))
    score_BHLM = jnp.einsum('BLHK,BMHK->BHLM', q_BLHK, k_BMHK) / q_BLHK.shape[-1] ** 0.5
    allowed_B1LM = mask.allowed(k_BMGK.shape[1])[:, None]
    weight_BHLM = jax.nn.softmax(jnp.where(allowed_B1LM, score_BHLM, -jnp.inf), axis=-1)
    return jnp.einsum('BHLM,BMHK->BLHK', weight_BHLM, v_BMHK)


def _dot_product_attention(q_BLHK, k_BMGK, v_BMGK, mask, implementation):
    allowed_B1LM = None if mask.only_causal else mask.allowed(k_BMGK.shape[1])[:, None]
    return jax.nn.dot_product_attention(
        q_BLHK, k_BMGK, v_BMGK, mask=allowed_B1LM, is_causal=mask.only_causal, implementation=implementation
    )


attend_with_xla: Variant = functools.partial(_dot_product_attention, implementation='xla')
attend_with_cudnn: Variant = functools.partial(_dot_product_attention, implementation='cudnn')


def _attend_with_splash_anywhere(q_BLHK, k_BMGK, v_BMGK, mask):
    """The kernel on a TPU, and its (slow) interpretation elsewhere."""
    interpreted = functools.partial(splash_attention.attend, interpret=True)
    return platform_dependent(q_BLHK, k_BMGK, v_BMGK, mask, tpu=splash_attention.attend, default=interpreted)


def _attend_with_intervals_anywhere(q_BLHK, k_BMGK, v_BMGK, mask):
    """The kernels on a GPU, and their (slow) interpretation elsewhere."""
    interpreted = functools.partial(interval_attention.attend, interpret=True)
    variants = on_gpus(interval_attention.attend) if jax.default_backend() == 'gpu' else {}
    return platform_dependent(q_BLHK, k_BMGK, v_BMGK, mask, default=interpreted, **variants)


def attend_in_blocks(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, mask: Mask) -> jax.Array:
    """The variant for CPUs: `QUERY_BLOCK` queries at a time, against only the keys that they can see."""
    B, L, H, K = q_BLHK.shape
    M, G = k_BMGK.shape[1:3]
    q_BLGRK = (q_BLHK * K**-0.5).reshape(B, L, G, H // G, K)
    blocks = []
    for first in range(0, L, QUERY_BLOCK):
        last = min(first + QUERY_BLOCK, L)
        keys = mask.keys_needed(last, M)
        allowed_BlM = mask.allowed(keys, first, last)
        one_head = jax.vmap(_attend_to_one_head, in_axes=(2, 2, 2, None), out_axes=2)
        blocks.append(one_head(q_BLGRK[:, first:last], k_BMGK[:, :keys], v_BMGK[:, :keys], allowed_BlM))
    return jnp.concatenate(blocks, axis=1).reshape(B, L, H, K)


@jax.custom_vjp
def _attend_to_one_head(q_BLRK: jax.Array, k_BMK: jax.Array, v_BMK: jax.Array, allowed_BLM: jax.Array) -> jax.Array:
    """All query heads of one key head, as more rows of the same matrix.

    The gradient is written out so that all products are those of `kernels.matmul`: dP = dY·Vᵀ,
    dS = P ⊙ (dP − Σ_m dP ⊙ P), dQ = dS·K, dK = dSᵀ·Q, dV = Pᵀ·dY.
    """
    return _attend_forward(q_BLRK, k_BMK, v_BMK, allowed_BLM)[0]


def _attend_forward(q_BLRK, k_BMK, v_BMK, allowed_BLM):
    B, L, R, K = q_BLRK.shape
    q_BXK = q_BLRK.reshape(B, L * R, K)
    score_BLRM = product(q_BXK, k_BMK, contract=1, batched=True).reshape(B, L, R, -1)
    score_BLRM = jnp.where(allowed_BLM[:, :, None], score_BLRM, jnp.finfo(jnp.float32).min)
    weight_BXM = jax.nn.softmax(score_BLRM, axis=-1).astype(v_BMK.dtype).reshape(B, L * R, -1)
    y_BLRK = product(weight_BXM, v_BMK, batched=True).astype(v_BMK.dtype).reshape(q_BLRK.shape)
    return y_BLRK, (q_BXK, k_BMK, v_BMK, weight_BXM)


def _attend_backward(residuals, dy_BLRK):
    q_BXK, k_BMK, v_BMK, weight_BXM = residuals
    dy_BXK = dy_BLRK.reshape(q_BXK.shape)
    d_weight_BXM = product(dy_BXK, v_BMK, contract=1, batched=True)
    inner_BX1 = jnp.sum(d_weight_BXM * weight_BXM, axis=-1, keepdims=True)
    d_score_BXM = (weight_BXM * (d_weight_BXM - inner_BX1)).astype(q_BXK.dtype)
    dq_BXK = product(d_score_BXM, k_BMK, batched=True).astype(q_BXK.dtype)
    dk_BMK = transposed_product(d_score_BXM, q_BXK, batched=True).astype(k_BMK.dtype)
    dv_BMK = transposed_product(weight_BXM, dy_BXK, batched=True).astype(v_BMK.dtype)
    return dq_BXK.reshape(dy_BLRK.shape), dk_BMK, dv_BMK, None


_attend_to_one_head.defvjp(_attend_forward, _attend_backward)
