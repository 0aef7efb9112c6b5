"""PaLM under the names of Transformers' Cohere: the same block, matrices the other way round.

Cohere's model (`transformers.models.cohere`) is PaLM's parallel block with one LayerNorm, no biases
and a shared, scaled embedding. It rotates neighbouring dimensions (2i, 2i + 1) where this project
rotates halves (i, i + K/2), so the last axis of queries and keys is interleaved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from palm_jax.errors import UserError
from palm_jax.models.architecture import Architecture

_SUPPORTED = {
    'norm': 'layernorm', 'parallel': True, 'qk_norm': False, 'xpos_scale_base': None, 'final_norm': True
}  # fmt: skip


def interleaved(x: np.ndarray) -> np.ndarray:
    """Halves (i, i + K/2) of the last axis as neighbours (2i, 2i + 1), as Cohere rotates them."""
    return np.stack(np.split(x, 2, axis=-1), axis=-1).reshape(x.shape)


def _halved(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One parameter here, one tensor (a layer) there.

    Attributes:
      path: here, below `params`; what lies in `stack` has a leading layers axis.
      name: there; of a layer's tensors with {} for its number.
      shape: of one layer, here.
      out, back: from here to there and from there to here, one layer at a time.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    out: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]

    @property
    def is_layered(self) -> bool:
        """Whether there is one of it in every layer."""
        return '{}' in self.name

    @property
    def their_shape(self) -> tuple[int, ...]:
        """Of one layer, there."""
        return self.out(np.broadcast_to(np.int8(0), self.shape)).shape


def tensors(arch: Architecture) -> list[Tensor]:
    """All parameters of a model without a head."""
    D, F, V = arch.d_model, arch.hidden_dim, arch.vocab_size
    H, K, G = arch.num_heads, arch.head_dim, arch.num_kv_heads

    def same(path, name, *shape):
        return Tensor(path, name, shape, np.asarray, np.asarray)

    def matrix(path, name, *shape):
        return Tensor(path, name, shape, np.transpose, np.transpose)

    def heads(path, name, count, rotated=False):
        turn, turn_back = (interleaved, _halved) if rotated else (np.asarray, np.asarray)
        return Tensor(
            path,
            name,
            (D, count, K),
            lambda x: turn(x).reshape(D, count * K).T,
            lambda y: turn_back(y.T.reshape(D, count, K)),
        )

    layer = 'model.layers.{}.'
    attention, mlp = layer + 'self_attn.', layer + 'mlp.'
    return [
        same('embed/embedding', 'model.embed_tokens.weight', V, D),
        same('final_norm/scale', 'model.norm.weight', D),
        same('stack/norm/scale', layer + 'input_layernorm.weight', D),
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
        matrix('stack/mlp/in/gate', mlp + 'gate_proj.weight', D, F),
        matrix('stack/mlp/in/up', mlp + 'up_proj.weight', D, F),
        matrix('stack/mlp/out/kernel', mlp + 'down_proj.weight', F, D),
    ]


def to_cohere(params: Mapping[str, Any], arch: Architecture) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every tensor, one at a time; a head is left out."""
    for tensor in tensors(arch):
        leaf = params
        for key in tensor.path.split('/'):
            leaf = leaf[key]
        if not tensor.is_layered:
            yield tensor.name, np.ascontiguousarray(tensor.out(np.asarray(leaf)))
            continue
        for number in range(arch.num_layers):
            yield tensor.name.format(number), np.ascontiguousarray(tensor.out(np.asarray(leaf[number])))


def config(arch: Architecture, length: int, dtype: str, **ids: int) -> dict[str, Any]:
    """What `config.json` says.

    Args:
      arch: of the model.
      length: that it was trained on.
      dtype: of the tensors.
      ids: bos_token_id, eos_token_id, pad_token_id.

    Raises:
      UserError: an ablation that Cohere's block does not have.
    """
    others = [f'{name} = {getattr(arch, name)!r}' for name, value in _SUPPORTED.items() if getattr(arch, name) != value]
    if others:
        raise UserError(f'Transformers has no model with this block: Cohere lacks {", ".join(others)}.')
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


def architecture(config: Mapping[str, Any], dtype: str = 'float32') -> Architecture:
    """The architecture that a Cohere `config.json` describes; `dtype` of the stored weights.

    Raises:
      UserError: another kind of model, or a Cohere with what this block does not have.
    """
    if config.get('model_type') != 'cohere':
        raise UserError(f"config.json is of a {config.get('model_type')!r}; only 'cohere' is the same block.")
    wrong = [
        f'{name} = {config[name]!r}'
        for name, value in (('use_qk_norm', False), ('attention_bias', False), ('hidden_act', 'silu'))
        if config.get(name, value) != value
    ]
    rope = config.get('rope_parameters') or {'rope_theta': config.get('rope_theta', 10_000.0)} | (
        config.get('rope_scaling') or {}
    )
    if rope.get('rope_type', rope.get('type', 'default')) != 'default':
        wrong.append(f'rope_parameters = {rope!r}')
    if wrong:
        raise UserError(f'This Cohere has {", ".join(wrong)}, which the block here has not.')
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
