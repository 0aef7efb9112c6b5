"""Multi-query attention with rotary positions."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.errors import UserError
from palm_jax.models import splash, target
from palm_jax.models.architecture import Architecture
from palm_jax.models.layers import Norm, Projection, constrain
from palm_jax.models.masks import Mask
from palm_jax.models.matmuls import product, transposed_product
from palm_jax.models.rotary import rotate

QUERY_BLOCK = 128


class Attention(nn.Module):
    """softmax(q·kᵀ / √K)·v with H query heads on G shared key/value heads (G = 1 in PaLM)."""

    arch: Architecture

    @nn.compact
    def __call__(self, x_BLD: jax.Array, positions_BL: jax.Array, mask: Mask) -> jax.Array:
        arch = self.arch
        kv = (arch.num_kv_heads, arch.head_dim)
        q_BLHK, k_BMGK, v_BMGK = Projection(
            arch,
            outputs={'q': (arch.num_heads, arch.head_dim), 'k': kv, 'v': kv},
            axes={'q': ('heads', 'kv'), 'k': ('kv_heads', 'kv'), 'v': ('kv_heads', 'kv')},
            name='qkv',
        )(x_BLD)
        if arch.qk_norm:
            q_BLHK = Norm(arch, axes=('kv',), name='q_norm')(q_BLHK)
            k_BMGK = Norm(arch, axes=('kv',), name='k_norm')(k_BMGK)
        q_BLHK = rotate(q_BLHK, positions_BL, arch.rope_theta, arch.xpos)
        k_BMGK = rotate(k_BMGK, positions_BL, arch.rope_theta, -arch.xpos)
        q_BLHK = constrain(q_BLHK, 'act_batch', 'act_length', 'act_heads', None)
        k_BMGK, v_BMGK, mask = Memory(arch, name='memory')(k_BMGK, v_BMGK, positions_BL, mask)
        y_BLHK = attend(q_BLHK, k_BMGK, v_BMGK, mask, arch.attention)
        (y_BLD,) = Projection(
            arch,
            outputs={'kernel': (arch.d_model,)},
            axes={'kernel': ('embed',)},
            input_axes=('heads', 'kv'),
            name='out',
        )(y_BLHK)
        return y_BLD


class Memory(nn.Module):
    """The keys and values that queries may see; the seam at which a prefix attaches.

    In training they are those of this call. While text is written the `cache` collection is
    mutable: the first call leaves its keys and values there, and a later one adds its own at
    `positions` and sees all of them up to there. One key head makes the cache small.
    """

    arch: Architecture

    @nn.compact
    def __call__(
        self, k_BLGK: jax.Array, v_BLGK: jax.Array, positions_BL: jax.Array, mask: Mask
    ) -> tuple[jax.Array, jax.Array, Mask]:
        """Keys and values [B, M, G, K] with the mask over them, from those of this call."""
        if self.is_initializing() or not self.is_mutable_collection('cache'):
            return k_BLGK, v_BLGK, mask
        is_first = not self.has_variable('cache', 'k')
        k, v = (self.variable('cache', name, lambda x=x: x) for name, x in (('k', k_BLGK), ('v', v_BLGK)))
        if is_first:
            return k_BLGK, v_BLGK, mask
        rows_B1 = jnp.arange(k_BLGK.shape[0])[:, None]
        positions_BL = jnp.broadcast_to(positions_BL, k_BLGK.shape[:2])
        k.value, v.value = (c.value.at[rows_B1, positions_BL].set(x) for c, x in ((k, k_BLGK), (v, v_BLGK)))
        return k.value, v.value, Mask(query_positions=positions_BL)


def attend(q_BLHK: jax.Array, k_BMGK: jax.Array, v_BMGK: jax.Array, mask: Mask, implementation: str) -> jax.Array:
    """Attention of every query head to its key/value head, scaled by 1/√K.

    Args:
      q_BLHK, k_BMGK, v_BMGK: rotated queries and keys, and values; H is a multiple of G.
      mask: who may attend to whom.
      implementation: `xla` or `cudnn` of `jax.nn.dot_product_attention`; `blocks`, which
        computes a block of queries at a time against only the keys it can see and needs no
        transposition with one key head, the fastest on CPUs; `splash`, a kernel for TPUs; or
        `auto`: `blocks` on a CPU, `cudnn` on a GPU in half precision, `splash` on a TPU where
        it fits (causal attention, whole multiples of 128), else `xla`.

    Returns:
      [B, L, H, K] in q's dtype.
    """
    if implementation == 'auto':
        implementation = fastest_implementation(q_BLHK.dtype)
        if implementation == 'splash' and not splash.fits(q_BLHK, k_BMGK, mask):
            implementation = 'xla'
    if implementation == 'splash':
        if not splash.fits(q_BLHK, k_BMGK, mask):
            raise UserError(
                f'palm.Architecture.attention = splash: it is causal, of lengths and head sizes that 128 divides; here '
                f'they are {q_BLHK.shape[1]} and {q_BLHK.shape[3]}. `auto` takes it where it fits.'
            )
        return splash.attend(q_BLHK, k_BMGK, v_BMGK, mask, interpret=target.platform() != 'tpu')
    if implementation == 'blocks':
        return _attend_in_blocks(q_BLHK, k_BMGK, v_BMGK, mask)
    allowed_B1LM = None if mask.only_causal else mask.allowed(k_BMGK.shape[1])[:, None]
    return jax.nn.dot_product_attention(
        q_BLHK, k_BMGK, v_BMGK, mask=allowed_B1LM, is_causal=mask.only_causal, implementation=implementation
    )


def fastest_implementation(dtype: jnp.dtype) -> str:
    """What `auto` stands for on the default device."""
    platform = target.platform()
    if platform in ('cpu', 'tpu', 'any'):
        return {'cpu': 'blocks', 'tpu': 'splash', 'any': 'blocks'}[platform]
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    return 'cudnn' if platform == 'gpu' and half else 'xla'


def _attend_in_blocks(q_BLHK, k_BMGK, v_BMGK, mask):
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
    """All query heads of one key head: they are just more rows of the same matrix.

    The gradient is written out so that every product is one of `matmuls`: dP = dY·Vᵀ,
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
