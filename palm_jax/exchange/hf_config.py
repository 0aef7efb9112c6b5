"""The config.json of Transformers: read into an `Architecture`, and written from one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palm_jax.errors import UserError
from palm_jax.exchange.families import Family, family_for, family_of, no_windows, one_window
from palm_jax.exchange.tensors import ParamDtype
from palm_jax.models.architecture import Architecture

_REQUIRED = ('vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size')
# Values of keys that the block here can express; files that lack the keys mean the same.
_ONLY = {
    'attention_bias': False, 'mlp_bias': False, 'use_qk_norm': False, 'use_bidirectional_attention': False,
    'partial_rotary_factor': 1.0, 'quantization_config': None,
}  # fmt: skip
_MOST_LAYERS = 10_000  # a damaged number is not waited for
_LLAMA3 = {
    'factor': 'rope_factor',
    'low_freq_factor': 'rope_low_frequency_factor',
    'high_freq_factor': 'rope_high_frequency_factor',
    'original_max_position_embeddings': 'rope_original_length',
}


def read(directory: Path) -> dict[str, Any]:
    """Return the content of a directory's config.json.

    Raises:
      UserError: if it is missing, cut or not an object.
    """
    file = directory / 'config.json'
    if not file.is_file():
        raise UserError(f'{directory} has no config.json; name the directory of a Transformers model.')
    try:
        content = json.loads(file.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise UserError(f'{file} is cut or not JSON ({error}). Copy or download it again.') from None
    if not isinstance(content, dict):
        raise UserError(f'{file} is not the configuration of a model: it holds no object. Download it again.')
    return content


def architecture(config: Mapping[str, Any], dtype: ParamDtype = 'float32') -> Architecture:
    """Return the architecture that a config.json describes; keys that it lacks have the defaults of its version.

    Args:
      config: content of config.json.
      dtype: type of the stored weights.

    Raises:
      UserError: if sizes are missing or wrong, or the model has what the block here does not have.
    """
    family = family_of(config.get('model_type'))
    _check_sizes(config)
    active = config.get('hidden_act') or family.activations[0]
    unsupported = [
        f'{name} = {config[name]!r}' for name, value in _ONLY.items() if config.get(name, value) not in (value, None)
    ]
    unsupported += [] if active in family.activations else [f'hidden_act = {active!r}']
    rope = rope_fields(config, family)
    if rope is None:
        unsupported.append(f'rope_parameters = {_rope(config)!r}')
    if unsupported:
        raise UserError(f'This {family.name} model has {", ".join(unsupported)}, which the block here does not have.')
    heads, width = config['num_attention_heads'], config['hidden_size']
    head_dim = None if family.derives_head_dim else config.get('head_dim', family.head_dim)
    if family.scales_embedding:
        rope = {**(rope or {}), 'embedding_scale': width**0.5}
    return Architecture(
        vocab_size=config['vocab_size'],
        num_layers=config['num_hidden_layers'],
        d_model=width,
        num_heads=heads,
        head_dim=head_dim or width // heads,
        num_kv_heads=config.get('num_key_value_heads', family.kv_heads) or heads,
        mlp_dim=config['intermediate_size'],
        norm_epsilon=config.get(family.epsilon_key) or family.epsilon,
        logit_scale=1.0 if family.logit_scale is None else config.get('logit_scale') or family.logit_scale,
        shared_embedding=bool(config.get('tie_word_embeddings', family.tied)),
        param_dtype=dtype,
        **family.block,
        **family.read_windows(config, config['num_hidden_layers']),
        **(rope or {}),
    )


def _check_sizes(config: Mapping[str, Any]) -> None:
    if missing := [name for name in _REQUIRED if name not in config]:
        raise UserError(f'config.json lacks {", ".join(missing)}. Copy or download the whole file again.')
    optional = ('head_dim', 'num_key_value_heads', 'max_position_embeddings', 'sliding_window', 'max_window_layers')
    for name in (*_REQUIRED, *optional):
        value = config.get(name)
        is_size = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if not (is_size or (name in optional and value is None) or (name == 'max_window_layers' and value == 0)):
            raise UserError(f'config.json: {name} is {value!r}; it must be a whole number of at least 1.')
    if config['num_hidden_layers'] > _MOST_LAYERS:
        raise UserError(
            f'config.json: num_hidden_layers is {config["num_hidden_layers"]:,}; it must be at most {_MOST_LAYERS:,}.'
        )
    for name in ('rms_norm_eps', 'layer_norm_eps', 'logit_scale', 'rope_theta'):
        value = config.get(name)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or not value > 0):
            raise UserError(f'config.json: {name} is {value!r}; it must be a number above 0.')
    types = config.get('layer_types')
    if types is not None and (not isinstance(types, list) or len(types) != config['num_hidden_layers']):
        raise UserError(f'config.json: layer_types must name the type of each of {config["num_hidden_layers"]} layers.')
    if not isinstance(_rope(config), dict):
        raise UserError(f'config.json: rope_parameters is {_rope(config)!r}; it must be an object.')


def _rope(config: Mapping[str, Any]) -> Any:
    return config.get('rope_scaling') or config.get('rope_parameters') or {}


def states_theta(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json names the base of the rotary wavelengths."""
    return _rope(config).get('rope_theta') is not None or config.get('rope_theta') is not None


def default_theta(config: Mapping[str, Any], family: Family) -> float:
    """Return the base of the rotary wavelengths of a file that does not name it, by the version that wrote it."""
    version = str(config.get('transformers_version') or '5').partition('.')[0]
    return family.theta_before_5 if version.isdecimal() and int(version) < 5 else family.theta


def rope_fields(config: Mapping[str, Any], family: Family) -> dict[str, Any] | None:
    """Return the fields of `Architecture` that describe RoPE; None if it is of a type that is not known here."""
    rope = _rope(config)
    theta = rope.get('rope_theta') or config.get('rope_theta') or default_theta(config, family)
    fields: dict[str, Any] = {'rope_theta': float(theta)}
    kind = rope.get('rope_type') or rope.get('type') or 'default'
    if kind == 'default' and rope.get('partial_rotary_factor') in (None, 1.0):
        return fields
    if kind not in ('linear', 'llama3') or rope.get('partial_rotary_factor') not in (None, 1.0):
        return None
    fields['rope_scaling'] = kind
    context = config.get('max_position_embeddings', family.context)
    defaults = {'original_max_position_embeddings': context} if kind == 'llama3' else {}
    keys = _LLAMA3 if kind == 'llama3' else {'factor': 'rope_factor'}
    if missing := [key for key in keys if key not in {**defaults, **rope}]:
        raise UserError(f'config.json: rope_parameters of type {kind} lacks {", ".join(missing)}.')
    return fields | {field: {**defaults, **rope}[key] for key, field in keys.items()}


def context_length(config: Mapping[str, Any]) -> int:
    """Return the context length of a model in tokens."""
    return config.get('max_position_embeddings') or family_of(config.get('model_type')).context


def config(arch: Architecture, length: int, dtype: str, **ids: int) -> dict[str, Any]:
    """Return the content of config.json.

    Args:
      arch: architecture of the model.
      length: context length in tokens that the model was trained on.
      dtype: type of the tensors.
      ids: bos_token_id, eos_token_id, pad_token_id.

    Raises:
      UserError: if no family of Transformers expresses the architecture.
    """
    family = family_for(arch)
    result = {
        'architectures': [family.causal_lm],
        'model_type': family.model_type,
        'vocab_size': arch.vocab_size,
        'hidden_size': arch.d_model,
        'intermediate_size': arch.hidden_dim,
        'num_hidden_layers': arch.num_layers,
        'num_attention_heads': arch.num_heads,
        'num_key_value_heads': arch.num_kv_heads,
        'head_dim': arch.head_dim,
        'hidden_act': family.activations[0],
        family.epsilon_key: arch.norm_epsilon,
        **_written_rope(arch),
        'max_position_embeddings': length,
        'attention_bias': False,
        'tie_word_embeddings': arch.shared_embedding,
        'dtype': dtype,
        **ids,
    }
    if family.logit_scale is not None:
        result['logit_scale'] = arch.output_scale
    if family.model_type == 'cohere':
        result['use_qk_norm'] = False
    return result | _written_windows(arch, family)


def _written_rope(arch: Architecture) -> dict[str, Any]:
    """Return RoPE as Transformers 5 reads it, and as Transformers 4, vLLM and llama.cpp do."""
    scaling: dict[str, Any] = {'rope_type': arch.rope_scaling or 'default'}
    if arch.rope_scaling == 'linear':
        scaling['factor'] = arch.rope_factor
    elif arch.rope_scaling == 'llama3':
        scaling |= {key: getattr(arch, field) for key, field in _LLAMA3.items()}
    result = {'rope_parameters': {**scaling, 'rope_theta': arch.rope_theta}, 'rope_theta': arch.rope_theta}
    return result | ({'rope_scaling': scaling} if arch.rope_scaling else {})


def _written_windows(arch: Architecture, family: Family) -> dict[str, Any]:
    if family.read_windows is no_windows:
        return {}
    if family.read_windows is one_window:
        return {'sliding_window': arch.window}
    full = range(arch.num_layers) if arch.window is None else arch.global_layers
    types = ['full_attention' if n in full else 'sliding_attention' for n in range(arch.num_layers)]
    result: dict[str, Any] = {'layer_types': types, 'sliding_window': arch.window}
    if family.model_type != 'cohere2':
        result |= {'use_sliding_window': arch.window is not None, 'max_window_layers': arch.num_layers}
    return result
