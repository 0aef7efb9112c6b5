"""The numbers that define a PaLM, and the letters that name its dimensions.

Array names end in their shape, one capital letter per axis:

    B batch      L length (queries)   M memory (keys)     D model (embed)
    H heads      G key/value heads    K head size         F mlp hidden
    V vocabulary N layers             R heads per key/value head (H / G)

Weight axes:      embed heads kv_heads kv mlp vocab layers
Activation axes:  act_batch act_length act_embed act_heads act_mlp
`palm_jax.partitioning` maps both to the axes of the mesh.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from palm_jax.bounds import AtLeast, Below, Positive, Rate, checked
from palm_jax.errors import UserError
from palm_jax.models.kernels.rope import RopeScaling

Size = Annotated[int, AtLeast(1), Below(2**31)]


@checked
@dataclasses.dataclass(frozen=True)
class Architecture:
    """All that distinguishes one PaLM from another.

    The defaults are the paper's (arXiv 2204.02311, section 2). Every field can be set by one gin line.

    Attributes:
      vocab_size: rows of the shared embedding (V).
      num_layers: number of blocks (N).
      d_model: width of the residual stream (D).
      num_heads: number of query heads (H).
      head_dim: size of a head (K), even; H·K need not equal D.
      num_kv_heads: number of key/value heads (G). 1 is PaLM's multi-query attention, H is multi-head.
      mlp_dim: hidden size of SwiGLU (F); None is the paper's 4·D.
      mlp_gate: function of the gate: `swish` is the paper's SwiGLU, `gelu` is GEGLU (2002.05202) with the tanh
        approximation, as in Gemma.
      qkv_bias: whether queries, keys and values have biases, as in Qwen2.
      norm: `layernorm` (with a scale, without a bias) or `rmsnorm`.
      norm_epsilon: constant added to the variance.
      parallel: whether a block is y = x + MLP(LN(x)) + Attn(LN(x)); False is the serial block of GPT-2, with a second
        norm before the MLP.
      qk_norm: whether every query and key head is normalized before the rotation (ViT-22B, 2302.05442).
      rope_theta: base of the rotary wavelengths (RoFormer, 2104.09864).
      rope_scaling: change of the wavelengths for longer contexts: `linear` multiplies all of them by `rope_factor`,
        `llama3` only the long ones (Llama 3.1); None changes none.
      rope_factor: factor of `rope_scaling`.
      rope_low_frequency_factor: `llama3` multiplies wavelengths above rope_original_length / this by the whole factor.
      rope_high_frequency_factor: `llama3` leaves wavelengths below rope_original_length / this as they are.
      rope_original_length: context length in tokens before `llama3` extended it.
      unrotated_layers: numbers of the layers without RoPE, counted from 0, as Cohere2's global layers.
      window: number of keys that a query attends to, its own included (Longformer, 2004.05150); None is all of them.
      global_layers: numbers of the layers that `window` does not limit, counted from 0.
      xpos_scale_base: number of positions over which xPos (2212.10554) decays the scores by
        (2i + 0.4·K) / (1.4·K) for pair i of a head; None is plain RoPE.
      final_norm: whether a norm precedes the logits.
      logit_scale: factor of the logits; None is the paper's 1/√D.
      shared_embedding: whether the logits use the embedding; False gives them a matrix of their own, as in Llama 2.
      embedding_scale: factor of the embedded tokens; Gemma's is √D.
      dropout_rate: dropout probability on the output of both branches; PaLM has 0 in pretraining, 0.1 in fine-tuning.
      attention: implementation of attention, see `kernels.attention.attend`; `auto` is the fastest of the platform.
      fuse_projections: whether projections of the same input are one matmul. `auto` is resolved for the platform of the
        run, see `training.platform_choices`, and is True where it was not resolved.
      unroll_layers: number of layers per iteration of the scan; 0 unrolls all of them. `auto` is resolved for the
        platform of the run, see `training.platform_choices`, and is 1 where it was not resolved. It changes only run
        time and compile time: parameters are stacked over layers either way.
      remat: activations that the backward pass recomputes: `none` of them, `minimal` all but the outputs of matmuls,
        `full` all but the input of every block.
      dtype: dtype of the computation.
      param_dtype: dtype of the stored weights.
    """

    vocab_size: Size
    num_layers: Size
    d_model: Size
    num_heads: Size
    head_dim: Size = 256
    num_kv_heads: Size = 1
    mlp_dim: Size | None = None
    mlp_gate: Literal['swish', 'gelu'] = 'swish'
    qkv_bias: bool = False
    norm: Literal['layernorm', 'rmsnorm'] = 'layernorm'
    norm_epsilon: Positive = 1e-6
    parallel: bool = True
    qk_norm: bool = False
    rope_theta: Positive = 10_000.0
    rope_scaling: Literal['linear', 'llama3'] | None = None
    rope_factor: Annotated[float, AtLeast(1)] = 1.0
    rope_low_frequency_factor: Positive = 1.0
    rope_high_frequency_factor: Positive = 4.0
    rope_original_length: Size = 8192
    unrotated_layers: tuple[Annotated[int, AtLeast(0)], ...] = ()
    window: Size | None = None
    global_layers: tuple[Annotated[int, AtLeast(0)], ...] = ()
    xpos_scale_base: Positive | None = None
    final_norm: bool = True
    logit_scale: Positive | None = None
    shared_embedding: bool = True
    embedding_scale: Positive = 1.0
    dropout_rate: Rate = 0.0
    attention: Literal['auto', 'xla', 'cudnn', 'blocks', 'splash', 'intervals'] = 'auto'
    fuse_projections: bool | Literal['auto'] = 'auto'
    unroll_layers: Annotated[int, AtLeast(0)] | Literal['auto'] = 'auto'
    remat: Literal['none', 'minimal', 'full'] = 'none'
    dtype: Literal['float32', 'bfloat16', 'float16'] = 'float32'
    param_dtype: Literal['float32', 'bfloat16', 'float16'] = 'float32'

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            divisors = [g for g in range(1, self.num_heads + 1) if self.num_heads % g == 0]
            raise UserError(
                f'Architecture.num_kv_heads is {self.num_kv_heads}, which does not divide '
                f'num_heads = {self.num_heads}. Possible: {", ".join(map(str, divisors))}.'
            )
        if self.head_dim % 2:
            raise UserError(f'Architecture.head_dim is {self.head_dim}; RoPE rotates pairs, so it must be even.')
        for name in ('unrotated_layers', 'global_layers'):
            layers = tuple(getattr(self, name))
            object.__setattr__(self, name, layers)  # gin and JSON have lists; jit needs a hash
            if wrong := [number for number in layers if not 0 <= number < self.num_layers]:
                raise UserError(
                    f'Architecture.{name} names layer {wrong[0]}; the layers are 0 to {self.num_layers - 1}.'
                )
        if self.rope_high_frequency_factor <= self.rope_low_frequency_factor:
            raise UserError(
                f'Architecture.rope_high_frequency_factor is {self.rope_high_frequency_factor}; it must be above '
                f'rope_low_frequency_factor = {self.rope_low_frequency_factor}.'
            )

    @property
    def hidden_dim(self) -> int:
        """Hidden size of SwiGLU (F): `mlp_dim`, or the paper's 4·D."""
        return 4 * self.d_model if self.mlp_dim is None else self.mlp_dim

    @property
    def output_scale(self) -> float:
        """Factor of the logits: `logit_scale`, or the paper's 1/√D."""
        return self.d_model**-0.5 if self.logit_scale is None else self.logit_scale

    @property
    def scaled_rope(self) -> RopeScaling | None:
        """Argument `scaling` of `kernels.rope.rotate`."""
        if self.rope_scaling is None:
            return None
        if self.rope_scaling == 'linear':
            return RopeScaling(self.rope_factor)
        low, high = self.rope_low_frequency_factor, self.rope_high_frequency_factor
        return RopeScaling(self.rope_factor, self.rope_original_length / low, self.rope_original_length / high)

    @property
    def xpos(self) -> float:
        """Argument `xpos` of `kernels.rope.rotate` for queries; keys take its negative."""
        return 0.0 if self.xpos_scale_base is None else 1.0 / self.xpos_scale_base

    @property
    def scan_unroll(self) -> int:
        """Argument `unroll` of `jax.lax.scan`, at least 1."""
        layers = 1 if self.unroll_layers == 'auto' else self.unroll_layers
        return min(layers or self.num_layers, self.num_layers)
