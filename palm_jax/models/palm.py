"""PaLM (Chowdhery et al. 2022, arXiv 2204.02311), section 2."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from palm_jax.models import pipeline
from palm_jax.models.architecture import Architecture
from palm_jax.models.attention import Attention
from palm_jax.models.heads import Head
from palm_jax.models.kernels.geglu import geglu
from palm_jax.models.kernels.swiglu import swiglu
from palm_jax.models.layer_pattern import LayerPattern
from palm_jax.models.layers import PRODUCT, Embed, Norm, Projection
from palm_jax.models.masks import Mask
from palm_jax.models.sharding import constrain

__all__ = ['Architecture', 'Block', 'PaLM', 'SwiGLU']

_GATES: dict[str, Callable[..., jax.Array]] = {'swish': swiglu, 'gelu': geglu}  # by `Architecture.mlp_gate`
# What `Architecture.remat` saves of the forward pass; None saves only a block's input.
_REMAT_POLICIES = {'minimal': jax.checkpoint_policies.save_only_these_names(PRODUCT), 'full': None}


class SwiGLU(nn.Module):
    """(Swish(x·W) ⊙ x·V)·U, three matrices (Shazeer 2020, arXiv 2002.05202); see also `Architecture.mlp_gate`."""

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
        h_BLF = constrain(_GATES[self.arch.mlp_gate](gate_BLF, up_BLF), 'act_batch', 'act_length', 'act_mlp')
        (y_BLD,) = Projection(
            self.arch,
            outputs={'kernel': (self.arch.d_model,)},
            axes={'kernel': ('embed',)},
            input_axes=('mlp',),
            name='out',
        )(h_BLF)
        return y_BLD


class Block(nn.Module):
    """y = x + MLP(LN(x)) + Attn(LN(x)), the parallel block; without biases.

    With `Architecture.parallel = False` it is the serial block: y = x + Attn(LN(x)), then y + MLP(LN(y)).
    """

    arch: Architecture
    deterministic: bool = True

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, positions_BL: jax.Array, mask: Mask, layer: LayerPattern = LayerPattern()
    ) -> tuple[jax.Array, None]:
        x_BLD = constrain(x_BLD, 'act_batch', 'act_length', 'act_embed')
        norm, attn, mlp = Norm(self.arch, name='norm'), Attention(self.arch, name='attn'), SwiGLU(self.arch, name='mlp')
        drop = nn.Dropout(self.arch.dropout_rate, deterministic=self.deterministic)
        h_BLD = norm(x_BLD)
        if self.arch.parallel:
            return x_BLD + drop(mlp(h_BLD) + attn(h_BLD, positions_BL, mask, layer)), None
        y_BLD = x_BLD + drop(attn(h_BLD, positions_BL, mask, layer))
        mlp_norm = Norm(self.arch, name='mlp_norm')
        return y_BLD + drop(mlp(mlp_norm(y_BLD))), None


class Layers(nn.Module):
    """All blocks in sequence, each with its own parameters 0/..., 1/..., ..."""

    arch: Architecture
    deterministic: bool = True

    @nn.compact
    def __call__(self, x_BLD: jax.Array, positions_BL: jax.Array, mask: Mask) -> jax.Array:
        for number in range(self.arch.num_layers):
            layer = jax.tree.map(lambda x_1: x_1[0], LayerPattern.of(self.arch, range(number, number + 1)))
            x_BLD, _ = Block(self.arch, self.deterministic, name=str(number))(x_BLD, positions_BL, mask, layer)
        return x_BLD


class PaLM(nn.Module):
    """Decoder-only language model: embedding, N blocks, norm, the transposed embedding.

    Parameters: embed/embedding [V, D], and embed/output [V, D] if the logits do not share it; stack/..., every leaf
    with a leading layers axis; final_norm/scale [D]; head/... if there is a head.

    Attributes:
      arch: architecture of the model.
      head: module that scores sequences or tokens from the features, see `scores`; None is a language model only.
      frozen_layers: number of leading blocks without a backward pass, along with the embedding below them.
      stacked: whether the parameters of all layers are stacked. False expects those of each layer separately, at
        stack/0/..., stack/1/..., for decoding: slicing a layer out of the stack costs as much as computing one token
        with it. Models are trained and saved with stacked parameters.
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
        """The normalized output of the last block, [B, L, D]; the arguments are those of `__call__`."""
        if positions_BL is None:
            positions_BL = jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)[None]
        mask = Mask(segment_ids_BL, causal_attention_BL)
        return self.transform(self.embed(tokens_BL), positions_BL, mask, deterministic)

    @nn.compact
    def transform(self, x_BLD: jax.Array, positions_BL: jax.Array, mask: Mask, deterministic: bool = True) -> jax.Array:
        """`features` of embedded inputs [B, L, D]; a soft prompt attaches here."""
        if not self.stacked:
            return self.final_norm(Layers(self.arch, deterministic, name='stack')(x_BLD, positions_BL, mask))
        if (schedule := pipeline.schedule_for(self, len(x_BLD))) is not None:
            layer = functools.partial(Block, self.arch, deterministic)
            return self.final_norm(pipeline.apply_stages(schedule, self, layer, x_BLD, positions_BL, mask))
        block = Block
        if self.arch.remat != 'none':
            # In unrolled code XLA would merge the recomputation with the original; in a loop it cannot.
            block = nn.remat(block, policy=_REMAT_POLICIES[self.arch.remat], prevent_cse=self.arch.scan_unroll > 1)
        stack = block(self.arch, deterministic, name='stack')
        first, num_layers = 0 if self.is_initializing() else self.frozen_layers, self.arch.num_layers
        for layers in filter(None, (range(first), range(first, num_layers))):
            x_BLD = self._run(layers, frozen=layers.stop == first)(stack, x_BLD, positions_BL, mask)
        return self.final_norm(x_BLD)

    def _run(self, layers: range, frozen: bool) -> Callable[..., jax.Array]:
        """A function that applies consecutive layers, given a block whose parameters are stacked over all layers."""

        def run(stack, x_BLD, positions_BL, mask):
            scan = nn.scan(
                lambda stack, x_BLD, *context: stack(x_BLD, *context),
                variable_axes={'params': 0, 'cache': 0, 'intermediates': 0},
                split_rngs={'params': True, 'dropout': True},
                in_axes=(nn.broadcast, nn.broadcast, 0),
                length=len(layers),
                unroll=min(self.arch.scan_unroll, len(layers)),
                metadata_params={nn.PARTITION_NAME: 'layers'},
            )
            x_BLD, _ = scan(stack, x_BLD, positions_BL, mask, LayerPattern.of(self.arch, layers))
            return jax.lax.stop_gradient(x_BLD) if frozen else x_BLD

        if len(layers) == self.arch.num_layers:
            return run

        def part(params):
            params = jax.tree.map(lambda p: p[layers.start : layers.stop], params)
            return jax.lax.stop_gradient(params) if frozen else params

        return nn.map_variables(run, 'params', trans_in_fn=part)

    def scores(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array | None,
        segment_ids_BL: jax.Array,
        causal_attention_BL: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """The head's scores of sequences or tokens; the arguments are those of `__call__`, with segment ids.

        Returns:
          float32 [B, C] or [B, L, C]; see `Head`.
        """
        assert self.head is not None, 'a language model has no scores'
        h_BLD = self.features(tokens_BL, positions_BL, segment_ids_BL, causal_attention_BL, deterministic)
        return self.head(h_BLD, segment_ids_BL, deterministic)

    def init_all(self, tokens_BL: jax.Array) -> None:
        """Use every parameter once; the method for `init`."""
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
        """Logits of the next token at every position.

        Args:
          tokens_BL: int32 input ids, already shifted right.
          positions_BL: int32 positions, counted from 0 in every segment; None is 0, 1, 2, ...
          segment_ids_BL: int32 ids of packed sequences, 0 for padding; None is one segment per row.
          causal_attention_BL: int32, 1 where attention is bidirectional (prefix LM); None is causal everywhere.
          deterministic: whether dropout is off; False requires a `dropout` RNG.

        Returns:
          float32 [B, L, V].
        """
        h_BLD = self.features(tokens_BL, positions_BL, segment_ids_BL, causal_attention_BL, deterministic)
        return self.embed.attend(h_BLD)
