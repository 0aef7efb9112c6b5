"""Multi-query attention with rotary positions."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.models.architecture import Architecture
from palm_jax.models.kernels.attention import attend
from palm_jax.models.kernels.rope import rotate
from palm_jax.models.layer_pattern import LayerPattern
from palm_jax.models.layers import Biases, Norm, Projection
from palm_jax.models.masks import Mask
from palm_jax.models.sharding import constrain


class Attention(nn.Module):
    """softmax(q·kᵀ / √K)·v with H query heads on G shared key/value heads (G = 1 in PaLM)."""

    arch: Architecture

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, positions_BL: jax.Array, mask: Mask, layer: LayerPattern = LayerPattern()
    ) -> jax.Array:
        arch = self.arch
        kv = (arch.num_kv_heads, arch.head_dim)
        axes = {'q': ('heads', 'kv'), 'k': ('kv_heads', 'kv'), 'v': ('kv_heads', 'kv')}
        q_BLHK, k_BMGK, v_BMGK = Projection(
            arch,
            outputs={'q': (arch.num_heads, arch.head_dim), 'k': kv, 'v': kv},
            axes=axes,
            name='qkv',
        )(x_BLD)
        if arch.qkv_bias:
            q_BLHK, k_BMGK, v_BMGK = Biases(arch, axes, name='qkv_bias')(q_BLHK, k_BMGK, v_BMGK)
        if arch.qk_norm:
            q_BLHK = Norm(arch, axes=('kv',), name='q_norm')(q_BLHK)
            k_BMGK = Norm(arch, axes=('kv',), name='k_norm')(k_BMGK)
        rotary_BL = layer.rotary_positions(positions_BL)
        q_BLHK = rotate(q_BLHK, rotary_BL, arch.rope_theta, arch.xpos, arch.scaled_rope)
        k_BMGK = rotate(k_BMGK, rotary_BL, arch.rope_theta, -arch.xpos, arch.scaled_rope)
        q_BLHK = constrain(q_BLHK, 'act_batch', 'act_length', 'act_heads', None)
        k_BMGK, v_BMGK, mask = Memory(arch, name='memory')(k_BMGK, v_BMGK, positions_BL, layer.limit(mask))
        for name, x in (('queries', q_BLHK), ('keys', k_BMGK), ('values', v_BMGK)):
            self.sow('intermediates', name, x)  # which costs nothing unless a caller asks for them
        is_training = not self.is_initializing() and not self.is_mutable_collection('cache')
        y_BLHK = attend(q_BLHK, k_BMGK, v_BMGK, mask, arch.attention, required=is_training)
        (y_BLD,) = Projection(
            arch,
            outputs={'kernel': (arch.d_model,)},
            axes={'kernel': ('embed',)},
            input_axes=('heads', 'kv'),
            name='out',
        )(y_BLHK)
        return y_BLD


class Memory(nn.Module):
    """The keys and values that queries attend to; a prefix attaches here.

    In training they are those of the current call. In decoding the collection `cache` is mutable: the first call stores
    its keys and values there, and every later call adds its own at `positions` and attends to all keys up to there.
    One key/value head makes the cache small.
    """

    arch: Architecture

    @nn.compact
    def __call__(
        self, k_BLGK: jax.Array, v_BLGK: jax.Array, positions_BL: jax.Array, mask: Mask
    ) -> tuple[jax.Array, jax.Array, Mask]:
        """Return keys and values [B, M, G, K] with their mask, given those of this call."""
        if self.is_initializing() or not self.is_mutable_collection('cache'):
            return k_BLGK, v_BLGK, mask
        is_first = not self.has_variable('cache', 'k')
        k, v = (self.variable('cache', name, lambda x=x: x) for name, x in (('k', k_BLGK), ('v', v_BLGK)))
        if is_first:
            return k_BLGK, v_BLGK, mask
        rows_B1 = jnp.arange(k_BLGK.shape[0])[:, None]
        positions_BL = jnp.broadcast_to(positions_BL, k_BLGK.shape[:2])
        k.value, v.value = (c.value.at[rows_B1, positions_BL].set(x) for c, x in ((k, k_BLGK), (v, v_BLGK)))
        return k.value, v.value, Mask(query_positions=positions_BL, window=mask.window)
