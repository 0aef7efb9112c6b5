"""The families of models whose block is the one here, in one table: what Transformers calls them and their tensors.

All of them name their tensors alike. They differ in the fields of `Architecture`, in the keys of config.json that say
so, and in the defaults of keys that a file may lack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from palm_jax.errors import UserError
from palm_jax.exchange.tensors import Tensor, heads, heads_out, norm, transposed
from palm_jax.models.architecture import Architecture

Config = Mapping[str, Any]
_PARALLEL = {'norm': 'layernorm', 'parallel': True}
_SERIAL = {'norm': 'rmsnorm', 'parallel': False}
# Fields of the block that a family must have as in the paper, where its row does not say otherwise.
_PLAIN = {
    'qk_norm': False, 'qkv_bias': False, 'mlp_gate': 'swish', 'embedding_scale': 1.0, 'xpos_scale_base': None,
    'final_norm': True, 'window': None, 'global_layers': (), 'unrotated_layers': (),
}  # fmt: skip


def no_windows(config: Config, num_layers: int) -> dict[str, Any]:
    """Return no fields: every layer attends to everything."""
    del config, num_layers
    return {}


def one_window(config: Config, num_layers: int) -> dict[str, Any]:
    """Return the fields of a window in every layer (Mistral)."""
    del num_layers
    return {'window': config.get('sliding_window', 4096)}


def windows_from_layer(config: Config, num_layers: int) -> dict[str, Any]:
    """Return the fields of windows in the layers that `layer_types` or `max_window_layers` name (Qwen)."""
    window = config.get('sliding_window', 4096) if config.get('use_sliding_window', False) else None
    full = range(min(config.get('max_window_layers', 28), num_layers))
    return _windows(window, _full_layers(config, num_layers, full), num_layers)


def windows_with_rotation(config: Config, num_layers: int) -> dict[str, Any]:
    """Return the fields of windows with RoPE in most layers, and neither in the others (Cohere2)."""
    period = config.get('sliding_window_pattern', 4)
    full = _full_layers(config, num_layers, range(period - 1, num_layers, period))
    window = config.get('sliding_window', 4096)
    unrotated = tuple(range(num_layers)) if window is None else full
    return _windows(window, full, num_layers) | {'unrotated_layers': unrotated}


def _full_layers(config: Config, num_layers: int, otherwise: range) -> tuple[int, ...]:
    types = config.get('layer_types')
    if types is None:
        return tuple(otherwise)
    return tuple(number for number in range(num_layers) if types[number] == 'full_attention')


def _windows(window: int | None, full: tuple[int, ...], num_layers: int) -> dict[str, Any]:
    if window is None or len(full) == num_layers:
        return {}
    return {'window': window, 'global_layers': full}


@dataclasses.dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
      model_type: name in config.json.
      causal_lm: class of Transformers.
      block: fields of `Architecture` that all its models share.
      epsilon_key: key of `norm_epsilon` in config.json.
      epsilon: `norm_epsilon` of a file that does not name it.
      tied: whether logits use the embedding where a file does not say.
      theta_before_5: `rope_theta` of a file that does not name it, written before Transformers 5.
      theta: likewise, from Transformers 5 on.
      context: context length in tokens of a file that does not name it.
      kv_heads: key/value heads of a file that does not name them; None is as many as query heads.
      head_dim: size of a head of a file that does not name it; None is D / H.
      derives_head_dim: whether a head's size is always D / H, whatever a file says.
      logit_scale: `logit_scale` of a file that does not name it; None has no such key: logits are not scaled.
      activations: names of the gate's function in config.json; the first is written.
      scales_embedding: whether embedded tokens are multiplied by √D.
      interleaved: whether RoPE pairs neighbouring dimensions.
      norm_offset: what is subtracted from the scales of norms in the file.
      read_windows: function of (config, number of layers) that returns the fields of windows and of rotation.
    """

    model_type: str
    causal_lm: str
    block: Mapping[str, Any]
    epsilon_key: str = 'rms_norm_eps'
    epsilon: float = 1e-6
    tied: bool = False
    theta_before_5: float = 10_000.0
    theta: float = 10_000.0
    context: int = 2048
    kv_heads: int | None = None
    head_dim: int | None = None
    derives_head_dim: bool = False
    logit_scale: float | None = None
    activations: tuple[str, ...] = ('silu',)
    scales_embedding: bool = False
    interleaved: bool = False
    norm_offset: float = 0.0
    read_windows: Callable[[Config, int], dict[str, Any]] = no_windows

    @property
    def name(self) -> str:
        """Name in messages."""
        return self.causal_lm.removesuffix('ForCausalLM')

    def differences(self, arch: Architecture) -> list[str]:
        """Return what an architecture has that this family cannot express, as `field = value`."""
        wanted: dict[str, Any] = _PLAIN | dict(self.block)
        if self.scales_embedding:
            wanted['embedding_scale'] = arch.d_model**0.5
        if self.logit_scale is None:
            wanted['logit_scale'] = 1.0
        if self.read_windows is not no_windows:
            for field in ('window', 'global_layers', 'unrotated_layers'):
                del wanted[field]
            if self.read_windows is one_window:
                wanted |= {'global_layers': (), 'unrotated_layers': ()}
            elif self.read_windows is windows_with_rotation:
                wanted['unrotated_layers'] = arch.global_layers
            else:
                wanted['unrotated_layers'] = ()
        found = {name: arch.output_scale if name == 'logit_scale' else getattr(arch, name) for name in wanted}
        if self.derives_head_dim:
            wanted['head_dim'], found['head_dim'] = arch.d_model / arch.num_heads, arch.head_dim
        if self.model_type == 'llama' and arch.d_model % arch.num_heads:
            wanted['num_heads'], found['num_heads'] = None, arch.num_heads  # Transformers refuses it
        return [f'{name} = {value!r}' for name, value in found.items() if value != wanted[name]]

    def tensors(self, arch: Architecture) -> list[Tensor]:
        """Return the mappings of all parameters of a model without a head."""
        D, F, V = arch.d_model, arch.hidden_dim, arch.vocab_size
        H, K, G = arch.num_heads, arch.head_dim, arch.num_kv_heads
        layer = 'model.layers.{}.'
        attention, mlp, offset = layer + 'self_attn.', layer + 'mlp.', self.norm_offset
        found = [
            Tensor('embed/embedding', 'model.embed_tokens.weight', (V, D)),
            norm('final_norm/scale', 'model.norm.weight', D, offset),
            norm('stack/norm/scale', layer + 'input_layernorm.weight', D, offset),
            *(
                heads(f'stack/attn/qkv/{x}', f'{attention}{x}_proj.weight', (D,), n, K, self.interleaved and x != 'v')
                for x, n in (('q', H), ('k', G), ('v', G))
            ),
            heads_out('stack/attn/out/kernel', attention + 'o_proj.weight', H, K, D),
            transposed('stack/mlp/in/gate', mlp + 'gate_proj.weight', D, F),
            transposed('stack/mlp/in/up', mlp + 'up_proj.weight', D, F),
            transposed('stack/mlp/out/kernel', mlp + 'down_proj.weight', F, D),
        ]
        if not arch.shared_embedding:
            found.append(Tensor('embed/output', 'lm_head.weight', (V, D)))
        if not arch.parallel:
            found.append(norm('stack/mlp_norm/scale', layer + 'post_attention_layernorm.weight', D, offset))
        if arch.qk_norm:
            found += [norm(f'stack/attn/{x}_norm/scale', f'{attention}{x}_norm.weight', K, offset) for x in 'qk']
        if arch.qkv_bias:
            found += [
                heads(f'stack/attn/qkv_bias/{x}', f'{attention}{x}_proj.bias', (), n, K, self.interleaved and x != 'v')
                for x, n in (('q', H), ('k', G), ('v', G))
            ]
        return found


FAMILIES = (
    Family(
        'cohere', 'CohereForCausalLM', _PARALLEL, 'layer_norm_eps', 1e-5, tied=True, theta=500_000.0, context=8192,
        logit_scale=0.0625, interleaved=True,
    ),
    Family(
        'cohere2', 'Cohere2ForCausalLM', _PARALLEL, 'layer_norm_eps', 1e-5, tied=True, context=8192,
        derives_head_dim=True, logit_scale=0.0625, interleaved=True, read_windows=windows_with_rotation,
    ),
    Family('llama', 'LlamaForCausalLM', _SERIAL),
    Family('mistral', 'MistralForCausalLM', _SERIAL, context=131_072, kv_heads=8, read_windows=one_window),
    Family(
        'qwen2', 'Qwen2ForCausalLM', {**_SERIAL, 'qkv_bias': True}, context=32_768, kv_heads=32,
        read_windows=windows_from_layer,
    ),
    Family(
        'qwen3', 'Qwen3ForCausalLM', {**_SERIAL, 'qk_norm': True}, context=32_768, kv_heads=32, head_dim=128,
        read_windows=windows_from_layer,
    ),
    Family(
        'gemma', 'GemmaForCausalLM', {**_SERIAL, 'mlp_gate': 'gelu'}, tied=True, context=8192, kv_heads=16,
        head_dim=256, activations=('gelu_pytorch_tanh', 'gelu'), scales_embedding=True, norm_offset=1.0,
    ),
)  # fmt: skip


def family_of(model_type: Any) -> Family:
    """Return the family that config.json names.

    Raises:
      UserError: if the block of that model is not the one here.
    """
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ', '.join(family.model_type for family in FAMILIES)
    raise UserError(f'config.json describes a {model_type!r} model, whose block is not known here. Known: {known}.')


def family_for(arch: Architecture) -> Family:
    """Return the family to export an architecture to.

    Raises:
      UserError: if no family expresses it, with what the nearest one lacks.
    """
    nearest = min(FAMILIES, key=lambda family: len(family.differences(arch)))
    if differing := nearest.differences(arch):
        raise UserError(
            f'Transformers has no model with this block: {nearest.name} does not support {", ".join(differing)}.'
        )
    return nearest
