"""PaLM (Chowdhery et al. 2022, arXiv 2204.02311), section 2."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.models.architecture import Architecture
from palm_jax.models.attention import Attention
from palm_jax.models.heads import Head
from palm_jax.models.layers import Embed, Norm, Projection, constrain, swish_times
from palm_jax.models.masks import Mask

__all__ = ['Architecture', 'Block', 'PaLM', 'SwiGLU']

# What `Architecture.remat` keeps of the forward pass; None keeps only a block's input.
_REMAT_POLICIES = {'minimal': jax.checkpoint_policies.dots_with_no_batch_dims_saveable, 'full': None}


class SwiGLU(nn.Module):
    """(Swish(x·W) ⊙ x·V)·U, three matrices (Shazeer 2020, arXiv 2002.05202)."""

    arch: Architecture

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        hidden = (self.arch.hidden_dim,)
        gate_BLF, up_BLF = Projection(
            self.arch,
            outputs={'gate': hidden, 'up': hidden},
            axes={'gate': ('mlp',), 'up': ('mlp',)},
            name='in',
        )(x_BLD)
        h_BLF = constrain(swish_times(gate_BLF, up_BLF), 'act_batch', 'act_length', 'act_mlp')
        (y_BLD,) = Projection(
            self.arch,
            outputs={'kernel': (self.arch.d_model,)},
            axes={'kernel': ('embed',)},
            input_axes=('mlp',),
            name='out',
        )(h_BLF)
        return y_BLD


class Block(nn.Module):
    """y = x + MLP(LN(x)) + Attn(LN(x)): two branches of one norm, without a bias."""

    arch: Architecture
    deterministic: bool = True

    @nn.compact
    def __call__(self, x_BLD: jax.Array, positions_BL: jax.Array, mask: Mask) -> tuple[jax.Array, None]:
        x_BLD = constrain(x_BLD, 'act_batch', 'act_length', 'act_embed')
        attn, mlp = Attention(self.arch, name='attn'), SwiGLU(self.arch, name='mlp')
        drop = nn.Dropout(self.arch.dropout_rate, deterministic=self.deterministic)
        h_BLD = Norm(self.arch, name='norm')(x_BLD)
        if self.arch.parallel:
            return x_BLD + drop(mlp(h_BLD) + attn(h_BLD, positions_BL, mask)), None
        x_BLD = x_BLD + drop(attn(h_BLD, positions_BL, mask))
        return x_BLD + drop(mlp(Norm(self.arch, name='mlp_norm')(x_BLD))), None


class Layers(nn.Module):
    """Blocks one after the other, with parameters of their own below 0, 1, ..."""

    arch: Architecture
    deterministic: bool = True

    @nn.compact
    def __call__(self, x_BLD: jax.Array, positions_BL: jax.Array, mask: Mask) -> jax.Array:
        for number in range(self.arch.num_layers):
            x_BLD, _ = Block(self.arch, self.deterministic, name=str(number))(x_BLD, positions_BL, mask)
        return x_BLD


class PaLM(nn.Module):
    """Decoder-only language model: embed, N blocks, norm, the embedding again.

    Parameters: embed/embedding [V, D]; stack/..., every leaf with a leading layers axis;
    final_norm/scale [D]; head/... where there is one.

    Attributes:
      arch: the model's numbers.
      head: scores texts or their tokens from the features, see `scores`.
      frozen_layers: so many of the first blocks, and the embedding below them, compute no
        gradient: of them there is no backward pass.
      stacked: False takes every layer's parameters apart, below stack/0, stack/1, ...: a token at a
        time, cutting a layer out of the stack would cost as much as computing it. See
        `inference.decoding.unstack_layers`; nothing is trained or saved so.
    """

    arch: Architecture
    head: Head | None = None
    frozen_layers: int = 0
    stacked: bool = True

    @property
    def has_dropout(self) -> bool:
        """Whether training needs a `dropout` RNG."""
        return bool(self.arch.dropout_rate or (self.head and self.head.dropout_rate))

    def setup(self) -> None:
        self.embed = Embed(self.arch)
        self.final_norm = Norm(self.arch) if self.arch.final_norm else lambda x_BLD: x_BLD

    def features(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array | None = None,
        segment_ids_BL: jax.Array | None = None,
        causal_attention_BL: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """The normed output of the last block, [B, L, D]; arguments as in `__call__`."""
        x_BLD = self.embed(tokens_BL)
        return self.transform(x_BLD, positions_BL, segment_ids_BL, causal_attention_BL, deterministic)

    @nn.compact
    def transform(
        self,
        x_BLD: jax.Array,
        positions_BL: jax.Array | None = None,
        segment_ids_BL: jax.Array | None = None,
        causal_attention_BL: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """`features` of embedded inputs: the seam for a soft prompt, and for whatever else is no token."""
        if positions_BL is None:
            positions_BL = jnp.arange(x_BLD.shape[1], dtype=jnp.int32)[None]
        mask = Mask(segment_ids_BL, causal_attention_BL)
        if not self.stacked:
            return self.final_norm(Layers(self.arch, deterministic, name='stack')(x_BLD, positions_BL, mask))
        block = Block
        if self.arch.remat != 'none':
            # A loop keeps XLA from merging the recomputation with the original; unrolled code does not.
            block = nn.remat(block, policy=_REMAT_POLICIES[self.arch.remat], prevent_cse=self.arch.scan_unroll > 1)
        stack = block(self.arch, deterministic, name='stack')
        first, num_layers = 0 if self.is_initializing() else self.frozen_layers, self.arch.num_layers
        for layers in filter(None, (range(first), range(first, num_layers))):
            x_BLD = self._run(layers, frozen=layers.stop == first)(stack, x_BLD, positions_BL, mask)
        return self.final_norm(x_BLD)

    def _run(self, layers: range, frozen: bool) -> Callable[..., jax.Array]:
        """A function that takes x through some layers of a block's stacked parameters."""

        def run(stack, x_BLD, positions_BL, mask):
            scan = nn.scan(
                lambda stack, x_BLD, *context: stack(x_BLD, *context),
                variable_axes={'params': 0, 'cache': 0},
                split_rngs={'params': True, 'dropout': True},
                in_axes=nn.broadcast,
                length=len(layers),
                unroll=min(self.arch.scan_unroll, len(layers)),
                metadata_params={nn.PARTITION_NAME: 'layers'},
            )
            x_BLD, _ = scan(stack, x_BLD, positions_BL, mask)
            return jax.lax.stop_gradient(x_BLD) if frozen else x_BLD

        if len(layers) == self.arch.num_layers:
            return run

        def part(params):
            params = jax.tree.map(lambda p: p[layers.start : layers.stop], params)
            return jax.lax.stop_gradient(params) if frozen else params

        return nn.map_variables(run, 'params', trans_in_fn=part)

    def scores(self, *inputs: jax.Array | None, deterministic: bool = True) -> jax.Array:
        """The head's scores of a text or of its tokens; inputs as in `__call__`, with segment ids.

        Returns:
          float32 [B, C] or [B, L, C]; see `Head`.
        """
        return self.head(self.features(*inputs, deterministic=deterministic), inputs[2], deterministic)

    def init_all(self, tokens_BL: jax.Array) -> None:
        """Touches every parameter, for `init`."""
        h_BLD = self.features(tokens_BL)
        if self.head is not None:
            self.head(h_BLD, jnp.ones_like(tokens_BL))

    def __call__(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array | None = None,
        segment_ids_BL: jax.Array | None = None,
        causal_attention_BL: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Logits of the next token.

        Args:
          tokens_BL: int32 inputs, already shifted right.
          positions_BL: int32, counted from 0 in every segment; None is 0, 1, 2, ...
          segment_ids_BL: int32 of packed sequences, 0 for padding; None is one segment a row.
          causal_attention_BL: int32, 1 where attention is bidirectional (prefix LM).
          deterministic: False applies dropout and needs a `dropout` RNG.

        Returns:
          float32 [B, L, V].
        """
        h_BLD = self.features(tokens_BL, positions_BL, segment_ids_BL, causal_attention_BL, deterministic)
        return self.embed.attend(h_BLD)
