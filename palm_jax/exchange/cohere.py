"""Conversion to and from Cohere of Transformers: the same block with transposed matrices.

Cohere's model (`transformers.models.cohere`) is PaLM's parallel block with a single LayerNorm, no biases
and a tied, scaled embedding. Its rotary embedding pairs adjacent dimensions (2i, 2i + 1) where this project
pairs the halves (i, i + K/2), so the last axis of queries and keys is permuted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture

ParamDtype: TypeAlias = Literal['float32', 'bfloat16', 'float16']
_SUPPORTED = {
    'norm': 'layernorm', 'parallel': True, 'qk_norm': False, 'xpos_scale_base': None, 'final_norm': True
}  # fmt: skip


def interleave(x: np.ndarray) -> np.ndarray:
    """Permute the last axis from halves (i, i + K/2) to adjacent pairs (2i, 2i + 1), Cohere's order."""
    return np.stack(np.split(x, 2, axis=-1), axis=-1).reshape(x.shape)


def _deinterleave(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The mapping of a parameter of this project to a tensor of another (or to one per layer).

    Attributes:
      path: path below `params`; parameters in `stack` have a leading layers axis.
      name: name of the tensor, with {} for the number of the layer.
      shape: shape of the parameter of one layer.
      export_layer: function from the parameter of one layer to its tensor.
      import_layer: function from the tensor of one layer to its parameter.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    export_layer: Callable[[np.ndarray], np.ndarray]
    import_layer: Callable[[np.ndarray], np.ndarray]

    @property
    def is_layered(self) -> bool:
        """Whether every layer has one."""
        return '{}' in self.name

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Shape of the tensor of one layer."""
        return self.export_layer(np.broadcast_to(np.int8(0), self.shape)).shape


def tensors(arch: Architecture) -> list[Tensor]:
    """Return the mappings of all parameters of a model without a head."""
    D, F, V = arch.d_model, arch.hidden_dim, arch.vocab_size
    H, K, G = arch.num_heads, arch.head_dim, arch.num_kv_heads

    def unchanged(path: str, name: str, *shape: int) -> Tensor:
        return Tensor(path, name, shape, np.asarray, np.asarray)

    def transposed(path: str, name: str, *shape: int) -> Tensor:
        return Tensor(path, name, shape, np.transpose, np.transpose)

    def heads(path: str, name: str, count: int, rotated: bool = False) -> Tensor:
        permute, permute_back = (interleave, _deinterleave) if rotated else (np.asarray, np.asarray)
        return Tensor(
            path,
            name,
            (D, count, K),
            lambda x: permute(x).reshape(D, count * K).T,
            lambda y: permute_back(y.T.reshape(D, count, K)),
        )

    layer = 'model.layers.{}.'
    attention, mlp = layer + 'self_attn.', layer + 'mlp.'
    return [
        unchanged('embed/embedding', 'model.embed_tokens.weight', V, D),
        unchanged('final_norm/scale', 'model.norm.weight', D),
        unchanged('stack/norm/scale', layer + 'input_layernorm.weight', D),
        heads('stack/attn/qkv/q', attention + 'q_proj.weight', H, rotated=True),
        heads('stack/attn/qkv/k', attention + 'k_proj.weight', G, rotated=True),
        heads('stack/attn/qkv/v', attention + 'v_proj.weight', G),
        Tensor(
            'stack/attn/out/kernel',
            attention + 'o_proj.weight',
            (H, K, D),
            lambda x: x.reshape(H * K, D).T,
            lambda y: y.T.reshape(H, K, D),
        ),
        transposed('stack/mlp/in/gate', mlp + 'gate_proj.weight', D, F),
        transposed('stack/mlp/in/up', mlp + 'up_proj.weight', D, F),
        transposed('stack/mlp/out/kernel', mlp + 'down_proj.weight', F, D),
    ]


def to_cohere(params: Mapping[str, Any], arch: Architecture) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of every tensor, one at a time, without a head."""
    for tensor in tensors(arch):
        leaf: Any = params
        for key in tensor.path.split('/'):
            leaf = leaf[key]
        if not tensor.is_layered:
            yield tensor.name, np.ascontiguousarray(tensor.export_layer(np.asarray(leaf)))
            continue
        for number in range(arch.num_layers):
            yield tensor.name.format(number), np.ascontiguousarray(tensor.export_layer(np.asarray(leaf[number])))


def config(arch: Architecture, length: int, dtype: str, **ids: int) -> dict[str, Any]:
    """Return the content of `config.json`.

    Args:
      arch: architecture of the model.
      length: context length that the model was trained on.
      dtype: type of the tensors.
      ids: bos_token_id, eos_token_id, pad_token_id.

    Raises:
      UserError: if the architecture has an ablation that Cohere does not support.
    """
    differing = [name for name, value in _SUPPORTED.items() if getattr(arch, name) != value]
    if differing:
        unsupported = ', '.join(f'{name} = {getattr(arch, name)!r}' for name in differing)
        raise UserError(f'Transformers has no model with this block: Cohere does not support {unsupported}.')
    return {
        'architectures': ['CohereForCausalLM'],
        'model_type': 'cohere',
        'vocab_size': arch.vocab_size,
        'hidden_size': arch.d_model,
        'intermediate_size': arch.hidden_dim,
        'num_hidden_layers': arch.num_layers,
        'num_attention_heads': arch.num_heads,
        'num_key_value_heads': arch.num_kv_heads,
        'head_dim': arch.head_dim,
        'hidden_act': 'silu',
        'logit_scale': arch.output_scale,
        'layer_norm_eps': arch.norm_epsilon,
        'rope_parameters': {'rope_type': 'default', 'rope_theta': arch.rope_theta},
        'max_position_embeddings': length,
        'use_qk_norm': False,
        'attention_bias': False,
        'tie_word_embeddings': True,
        'dtype': dtype,
        **ids,
    }


def architecture(config: Mapping[str, Any], dtype: ParamDtype = 'float32') -> Architecture:
    """Return the architecture that a Cohere `config.json` describes.

    Args:
      config: content of config.json.
      dtype: type of the stored weights.

    Raises:
      UserError: if it is another kind of model, or a Cohere with features that the block here does not have.
    """
    if config.get('model_type') != 'cohere':
        raise UserError(
            f"config.json describes a {config.get('model_type')!r} model; only 'cohere' has the same block."
        )
    unsupported = [
        f'{name} = {config[name]!r}'
        for name, value in (('use_qk_norm', False), ('attention_bias', False), ('hidden_act', 'silu'))
        if config.get(name, value) != value
    ]
    rope = config.get('rope_parameters') or {'rope_theta': config.get('rope_theta', 10_000.0)} | (
        config.get('rope_scaling') or {}
    )
    if rope.get('rope_type', rope.get('type', 'default')) != 'default':
        unsupported.append(f'rope_parameters = {rope!r}')
    if unsupported:
        raise UserError(f'This Cohere model has {", ".join(unsupported)}, which the block here does not support.')
    heads = config['num_attention_heads']
    return Architecture(
        vocab_size=config['vocab_size'],
        num_layers=config['num_hidden_layers'],
        d_model=config['hidden_size'],
        num_heads=heads,
        head_dim=config.get('head_dim') or config['hidden_size'] // heads,
        num_kv_heads=config.get('num_key_value_heads') or heads,
        mlp_dim=config['intermediate_size'],
        norm_epsilon=config.get('layer_norm_eps', 1e-5),
        rope_theta=rope['rope_theta'],
        logit_scale=config.get('logit_scale', 1.0),
        param_dtype=dtype,
    )
