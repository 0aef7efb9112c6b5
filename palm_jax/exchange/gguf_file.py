"""Models in GGUF files (llama.cpp): their tensors, of all types of the package gguf, and what their metadata describe.

The tensors are those of Transformers under other names. Files of the llama architecture rotate neighbouring dimensions,
where Transformers rotates halves, and Gemma's norms have their offset added.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.errors import UserError
from palm_jax.exchange.families import Family, family_of
from palm_jax.exchange.tensors import Tensor
from palm_jax.models.architecture import Architecture
from palm_jax.models.kernels.rope import RopeScaling

NEEDS = 'pip install "palm_jax[hf]"'
EMBEDDING, OUTPUT = 'token_embd.weight', 'output.weight'
_ROPE_FACTORS = 'rope_freqs.weight'
# The name of an architecture in GGUF files by that of config.json.
_MODEL_TYPES = {name: name for name in ('llama', 'qwen2', 'qwen3', 'gemma', 'cohere2')} | {'command-r': 'cohere'}
_NAMES = {
    'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm', 'lm_head': 'output', 'model.layers': 'blk',
    'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm', 'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output',
    'self_attn.q_norm': 'attn_q_norm', 'self_attn.k_norm': 'attn_k_norm', 'mlp.gate_proj': 'ffn_gate',
    'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down',
}  # fmt: skip
_SIZES = {
    'hidden_size': 'embedding_length',
    'num_hidden_layers': 'block_count',
    'num_attention_heads': 'attention.head_count',
    'intermediate_size': 'feed_forward_length',
}
_OPTIONAL = {
    'num_key_value_heads': 'attention.head_count_kv',
    'head_dim': 'attention.key_length',
    'rms_norm_eps': 'attention.layer_norm_rms_epsilon',
    'layer_norm_eps': 'attention.layer_norm_epsilon',
    'rope_theta': 'rope.freq_base',
    'max_position_embeddings': 'context_length',
    'sliding_window': 'attention.sliding_window',
    'logit_scale': 'logit_scale',
}
_LLAMA3 = {'low_freq_factor': 1.0, 'high_freq_factor': 4.0, 'original_max_position_embeddings': 8192}


class GgufFile:
    """An open file; its tensors are memory-mapped and dequantized one at a time.

    Attributes:
      path: the file.
      shapes: shape of every tensor that a parameter may be mapped to, by name.
    """

    def __init__(self, path: Path):
        """Open a file.

        Raises:
          UserError: if the package is not installed, or the file is missing, cut or not GGUF.
        """
        try:
            import gguf
        except ImportError:
            raise UserError(f'GGUF files need the package gguf: {NEEDS}') from None
        if not path.is_file():
            raise UserError(f'{path}: no such file; name a .gguf file.')
        try:
            reader = gguf.GGUFReader(path)
        except Exception as error:
            raise UserError(f'{path} is cut or not a GGUF file ({error or type(error).__name__}).') from None
        self.path = path
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.shapes = {
            name: tuple(int(size) for size in reversed(tensor.shape))
            for name, tensor in self._tensors.items()
            if name != _ROPE_FACTORS
        }

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the metadata."""
        return self._fields[key].contents() if key in self._fields else default

    def read(self, name: str) -> np.ndarray:
        """Return one tensor in float32.

        Raises:
          UserError: if the package cannot dequantize its type.
        """
        import gguf

        tensor = self._tensors[name]
        try:
            return gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(self.shapes.get(name, (-1,)))
        except NotImplementedError:
            raise UserError(
                f'{self.path}: {name} is quantized as {tensor.tensor_type.name}, which is not supported. '
                'Supported: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 and the K-quants.'
            ) from None

    @functools.cached_property
    def architecture_name(self) -> str:
        """Name of the architecture in the keys of the metadata."""
        return str(self.get('general.architecture'))

    @property
    def family(self) -> Family:
        """Family of the model, with the layout that GGUF files of it have."""
        if self.architecture_name not in _MODEL_TYPES:
            raise UserError(
                f'{self.path} holds a {self.architecture_name!r} model, whose block is not known here. '
                f'Known: {", ".join(_MODEL_TYPES)}.'
            )
        family = family_of(_MODEL_TYPES[self.architecture_name])
        return dataclasses.replace(
            family, interleaved=family.interleaved or family.model_type == 'llama', norm_offset=0.0
        )

    def config(self) -> dict[str, Any]:
        """Return the metadata as the content of a config.json.

        Raises:
          UserError: if sizes are missing, or the model has what the block here does not have.
        """
        family, name = self.family, self.architecture_name
        keys = {**_SIZES, **_OPTIONAL}
        found = {key: self.get(f'{name}.{theirs}') for key, theirs in keys.items()}
        if missing := [f'{name}.{_SIZES[key]}' for key in _SIZES if found[key] is None]:
            raise UserError(f'{self.path} lacks {", ".join(missing)} among its metadata.')
        if EMBEDDING not in self.shapes:
            raise UserError(f'{self.path} has no tensor {EMBEDDING}.')
        config = {key: value for key, value in found.items() if value is not None}
        config.setdefault('num_key_value_heads', config['num_attention_heads'])
        config.setdefault('head_dim', config['hidden_size'] // config['num_attention_heads'])
        config.setdefault('rope_theta', 10_000.0)
        config['model_type'] = family.model_type
        config['vocab_size'] = self.shapes[EMBEDDING][0]
        config['tie_word_embeddings'] = OUTPUT not in self.shapes
        rope = self._rope(config)
        return config | ({'rope_scaling': rope} if rope else {})

    def _rope(self, config: Mapping[str, Any]) -> dict[str, Any]:
        kind = self.get(f'{self.architecture_name}.rope.scaling.type', 'none')
        if kind == 'linear':
            return {'rope_type': 'linear', 'factor': self.get(f'{self.architecture_name}.rope.scaling.factor', 1.0)}
        if kind != 'none':
            raise UserError(f'{self.path} scales its rotary wavelengths by {kind!r}. Known: linear and Llama 3.')
        if _ROPE_FACTORS not in self._tensors:
            return {}
        factors = self.read(_ROPE_FACTORS).reshape(-1)
        factor, length = float(np.round(factors.max(), 3)), _LLAMA3['original_max_position_embeddings']
        rope = {'rope_type': 'llama3', 'factor': factor, **_LLAMA3}
        scaling = RopeScaling(factor, length / _LLAMA3['low_freq_factor'], length / _LLAMA3['high_freq_factor'])
        frequencies = config['rope_theta'] ** (-np.arange(len(factors)) / len(factors))
        if not np.allclose(frequencies / np.asarray(scaling(frequencies)), factors, rtol=1e-3):
            raise UserError(f'{self.path}: {_ROPE_FACTORS} are not the factors of Llama 3, which alone are known here.')
        return rope

    def tensors(self, arch: Architecture) -> list[Tensor]:
        """Return the mappings of all parameters of the model to the file's tensors."""
        return [dataclasses.replace(tensor, name=_name(tensor.name)) for tensor in self.family.tensors(arch)]


def _name(name: str) -> str:
    """Return the name in GGUF files of a tensor of Transformers."""
    for theirs, here in _NAMES.items():
        name = name.replace(theirs, here)
    return name
