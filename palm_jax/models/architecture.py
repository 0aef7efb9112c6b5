"""The numbers that define a PaLM, and the letters that name its dimensions.

Array names end in their shape, one capital letter an axis:

    B batch      L length (queries)   M memory (keys)     D model (embed)
    H heads      G key/value heads    K head size         F mlp hidden
    V vocabulary N layers             R heads per key/value head (H / G)

Weight axes:      embed heads kv_heads kv mlp vocab layers
Activation axes:  act_batch act_length act_embed act_heads act_mlp
`palm_jax.partitioning` maps both to the mesh.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from palm_jax.errors import UserError
from palm_jax.models import target

_SHALLOW = 12  # layers that `unroll_layers = auto` unrolls on a CPU


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything that distinguishes one PaLM from another.

    The defaults are the paper's (arXiv 2204.02311, section 2); every field is one gin line,
    so every ablation is, too.

    Attributes:
      vocab_size: rows of the shared embedding (V).
      num_layers: N.
      d_model: width of the residual stream (D).
      num_heads: query heads (H).
      head_dim: size of one head (K); H·K need not equal D.
      num_kv_heads: key/value heads (G). 1 is PaLM's multi-query attention, H is multi-head.
      mlp_dim: hidden size of SwiGLU (F); None is the paper's 4·D.
      norm: `layernorm` (with a scale, without a bias) or `rmsnorm`.
      norm_epsilon: added to the variance.
      parallel: y = x + MLP(LN(x)) + Attn(LN(x)); False is the serial block of GPT-2,
        with a second norm before the MLP.
      qk_norm: normalise every query and key head before the rotation (ViT-22B, 2302.05442).
      rope_theta: base of the rotary frequencies (RoFormer, 2104.09864).
      xpos_scale_base: positions over which xPos (2212.10554) lets scores decay by a head's factors,
        (2i + 0.4·K) / (1.4·K) of pair i; None is plain RoPE.
      final_norm: a norm before the logits; False leaves it out.
      logit_scale: multiplies the logits; None is the paper's 1/√D.
      dropout_rate: on the output of both branches; 0 in pretraining, 0.1 in fine-tuning.
      attention: which kernel computes attention; see `attention.attend`.
      fuse_projections: one matmul for the projections that share an input.
      unroll_layers: layers per iteration of the scan; 0 unrolls all of them; `auto` is 0 on a CPU, where a loop
        pays for what it keeps of every layer, unless the model is deep, else 1. Only time and compile time
        depend on it: parameters are stacked over layers either way.
      remat: what the backward pass recomputes: `none` keeps all activations, `minimal`
        keeps the matmuls' outputs, `full` keeps only every block's input.
      dtype: of the computation.
      param_dtype: of the stored weights.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    head_dim: int = 256
    num_kv_heads: int = 1
    mlp_dim: int | None = None
    norm: Literal['layernorm', 'rmsnorm'] = 'layernorm'
    norm_epsilon: float = 1e-6
    parallel: bool = True
    qk_norm: bool = False
    rope_theta: float = 10_000.0
    xpos_scale_base: float | None = None
    final_norm: bool = True
    logit_scale: float | None = None
    dropout_rate: float = 0.0
    attention: Literal['auto', 'xla', 'cudnn', 'blocks', 'splash'] = 'auto'
    fuse_projections: bool = True
    unroll_layers: int | Literal['auto'] = 1
    remat: Literal['none', 'minimal', 'full'] = 'none'
    dtype: Literal['float32', 'bfloat16', 'float16'] = 'float32'
    param_dtype: Literal['float32', 'bfloat16', 'float16'] = 'float32'

    def __post_init__(self) -> None:
        for field in ('vocab_size', 'num_layers', 'd_model', 'num_heads', 'head_dim', 'num_kv_heads', 'mlp_dim'):
            size = getattr(self, field)
            if size is not None and not 1 <= size < 2**31:
                raise UserError(f'Architecture.{field} is {size}; it must be at least 1 and below {2**31}.')
        if self.unroll_layers != 'auto' and self.unroll_layers < 0:
            raise UserError(f'Architecture.unroll_layers is {self.unroll_layers}; it must be at least 0, or auto.')
        for field in ('norm_epsilon', 'rope_theta', 'logit_scale', 'xpos_scale_base'):
            value = getattr(self, field)
            if value is not None and not 0 < value < float('inf'):
                raise UserError(f'Architecture.{field} is {value}; it must be a number above 0.')
        if self.num_heads % self.num_kv_heads:
            divisors = [g for g in range(1, self.num_heads + 1) if self.num_heads % g == 0]
            raise UserError(
                f'Architecture.num_kv_heads is {self.num_kv_heads}, which does not divide '
                f'num_heads = {self.num_heads}. Possible: {", ".join(map(str, divisors))}.'
            )
        if self.head_dim % 2:
            raise UserError(f'Architecture.head_dim is {self.head_dim}; RoPE rotates pairs, so it must be even.')
        if not 0 <= self.dropout_rate < 1:
            raise UserError(f'Architecture.dropout_rate is {self.dropout_rate}; it must be in [0, 1).')

    @property
    def hidden_dim(self) -> int:
        """F: `mlp_dim`, or the paper's 4·D."""
        return 4 * self.d_model if self.mlp_dim is None else self.mlp_dim

    @property
    def output_scale(self) -> float:
        """What multiplies the logits: `logit_scale`, or the paper's 1/√D."""
        return self.d_model**-0.5 if self.logit_scale is None else self.logit_scale

    @property
    def xpos(self) -> float:
        """What `rotary.rotate` takes for queries; keys take its negative."""
        return 0.0 if self.xpos_scale_base is None else 1.0 / self.xpos_scale_base

    @property
    def scan_unroll(self) -> int:
        """`unroll_layers` as `jax.lax.scan` wants it."""
        layers = self.unroll_layers
        if layers == 'auto':
            layers = 0 if target.platform() == 'cpu' and self.num_layers <= _SHALLOW else 1
        return min(layers or self.num_layers, self.num_layers)
