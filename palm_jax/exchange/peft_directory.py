"""A fine-tuning method's weights as a directory that Hugging Face peft loads onto the exported base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from palm_jax.errors import UserError
from palm_jax.exchange.cohere import interleaved
from palm_jax.models.architecture import Architecture
from palm_jax.models.kernels.rope import rotate
from palm_jax.peft.adalora import AdaLoRA
from palm_jax.peft.ia3 import IA3
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import Method
from palm_jax.peft.prefix import KeysAndValues, Prefix
from palm_jax.peft.prompt import SoftPrompt

# How a linear map is called there, and where it lies here: branch, projection, kernel.
LINEAR = {
    'self_attn.q_proj': ('attn', 'qkv', 'q'),
    'self_attn.k_proj': ('attn', 'qkv', 'k'),
    'self_attn.v_proj': ('attn', 'qkv', 'v'),
    'self_attn.o_proj': ('attn', 'out', 'kernel'),
    'mlp.gate_proj': ('mlp', 'in', 'gate'),
    'mlp.up_proj': ('mlp', 'in', 'up'),
    'mlp.down_proj': ('mlp', 'out', 'kernel'),
}
Weights = dict[str, np.ndarray]  # by the end of their names there


def attach(base: Any, method: Method, params: Mapping[str, Any], arch: Architecture) -> Any:
    """peft's model of the same method with the same weights.

    Args:
      base: a `CohereForCausalLM` with the base's weights.
      method: LoRA (rsLoRA, DoRA), AdaLoRA, (IA)³, prefix or prompt.
      params: ours, the method's weights among them.
      arch: the base's.

    Raises:
      UserError: a method that peft does not have.
    """
    import torch
    from peft import get_peft_model

    kinds = {AdaLoRA: _adalora, LoRA: _lora, IA3: _ia3, Prefix: _prefix, SoftPrompt: _prompt}
    if type(method) not in kinds:
        raise UserError(
            f'peft has no {type(method).__name__}. It has: {", ".join(kind.__name__ for kind in kinds)}. '
            '--format=hf writes the whole model, where the method can be merged.'
        )
    config, weights = kinds[type(method)](method, params, arch)
    model = get_peft_model(base, config)
    named = dict(model.named_parameters())
    for end, value in weights.items():
        (name,) = (n for n in named if n.endswith(end))
        with torch.no_grad():
            named[name].copy_(torch.from_numpy(np.array(value, np.float32)).reshape(named[name].shape))
    return model.eval()


def _on_linear_maps(
    method: Method, params: Mapping[str, Any], arch: Architecture, weights_of: Callable[[dict, str], Weights]
) -> tuple[list[str], Weights]:
    """The names of the maps that have weights of the method, and those weights, in all layers."""
    names, weights = [], {}
    for linear, (branch, projection, kernel) in LINEAR.items():
        own = params['stack'][branch][projection].get(method.name, {})
        for layer in range(arch.num_layers):
            found = weights_of({name: np.asarray(value[layer]) for name, value in own.items()}, kernel)
            weights |= {f'layers.{layer}.{linear}.{end}': value for end, value in found.items()}
        names += [linear.split('.')[1]] if found else []
    return names, weights


def _low_rank(own: Mapping[str, np.ndarray], kernel: str) -> Weights:
    """A, B, E and lengths of one kernel of one layer."""
    if f'{kernel}_a' not in own:
        return {}
    turned = interleaved if kernel in ('q', 'k') else np.asarray
    a, b = own[f'{kernel}_a'], own[f'{kernel}_b']
    rank = b.shape[0]
    weights = {
        'lora_A.default.weight': a.reshape(-1, rank).T,
        'lora_B.default.weight': turned(b).reshape(rank, -1).T,
    }
    if f'{kernel}_e' in own:  # AdaLoRA's are no modules
        weights = {name.removesuffix('.weight'): value for name, value in weights.items()}
        weights['lora_E.default'] = own[f'{kernel}_e'][:, None]
    if f'{kernel}_length' in own:
        weights['lora_magnitude_vector.default.weight'] = turned(own[f'{kernel}_length']).reshape(-1)
    return weights


def _lora(method, params, arch):
    from peft import LoraConfig

    names, weights = _on_linear_maps(method, params, arch, _low_rank)
    config = LoraConfig(
        task_type='CAUSAL_LM', r=method.rank, lora_alpha=method.alpha, target_modules=names,
        use_rslora=method.use_rslora, use_dora=method.use_dora,
    )  # fmt: skip
    return config, weights


def _adalora(method, params, arch):
    from peft import AdaLoraConfig

    names, weights = _on_linear_maps(method, params, arch, _low_rank)
    config = AdaLoraConfig(
        task_type='CAUSAL_LM', init_r=method.rank, target_r=method.target_rank, lora_alpha=method.alpha,
        target_modules=names, total_step=method.total_steps,
    )  # fmt: skip
    return config, weights


def _ia3(method, params, arch):
    from peft import IA3Config

    def scales(own: Mapping[str, np.ndarray], kernel: str) -> Weights:
        vector = own.get('input') if kernel == 'kernel' else own.get(kernel)
        if vector is None:
            return {}
        return {'ia3_l.default': (interleaved if kernel in ('q', 'k') else np.asarray)(vector)}

    names, weights = _on_linear_maps(method, params, arch, scales)
    of_inputs = [name for name in names if name in ('o_proj', 'down_proj')]
    return IA3Config(task_type='CAUSAL_LM', target_modules=names, feedforward_modules=of_inputs), weights


def _prefix(method, params, arch):
    from peft import PrefixTuningConfig

    P, own = method.length, params['stack']['attn']['memory'][method.name]
    both = jax.vmap(lambda layer: KeysAndValues(arch, method).apply({'params': layer}))(own)
    k_NPGK, v_NPGK = (np.asarray(x)[:, 0] for x in both)
    # Ours stand before the text, at -P to -1; theirs are a cache's, at 0 to P - 1 with the text behind.
    k_NPGK = interleaved(np.asarray(rotate(k_NPGK, np.full((1, P), P), arch.rope_theta)))
    both_N2PGK = np.stack([k_NPGK, v_NPGK], axis=1)
    config = PrefixTuningConfig(
        task_type='CAUSAL_LM', num_virtual_tokens=P, num_layers=arch.num_layers, num_attention_heads=arch.num_kv_heads,
        token_dim=arch.num_kv_heads * arch.head_dim, num_transformer_submodules=1,
    )  # fmt: skip
    return config, {'prompt_encoder.default.embedding.weight': both_N2PGK.transpose(2, 0, 1, 3, 4).reshape(P, -1)}


def _prompt(method, params, arch):
    from peft import PromptTuningConfig

    del arch
    config = PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=method.length)
    return config, {'prompt_encoder.default.embedding.weight': params[method.name]['embedding']}


def write(model: Any, params: Any, rows: np.ndarray, base: Path, directory: Path) -> str:
    """Writes the directory, loads it again onto the base, and compares logits.

    Args:
      model: with the one method.
      params: ours.
      rows: int64 [V], the id there of every id here, see `hf_directory.rows`.
      base: the directory that `--format=hf` has written of the base.
      directory: new or empty.

    Returns:
      What was compared.

    Raises:
      UserError: several methods or none, a base that is not there, or logits that differ.
    """
    if len(model.methods) != 1:
        raise UserError(f'A peft directory holds one method, and this run has {len(model.methods)}.')
    if not (base / 'config.json').is_file():
        raise UserError(
            f'--base={base} holds no Transformers model. Export the base first: '
            f'palm-jax export --gin_file=BASE/config.gin {base}'
        )
    import peft
    import torch
    import transformers

    def load() -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()

    attach(load(), model.methods[0], params, model.arch).save_pretrained(directory)
    theirs = peft.PeftModel.from_pretrained(load(), directory).eval()
    tokens = np.random.default_rng(0).integers(0, model.arch.vocab_size, (4, 32))
    with torch.no_grad():
        logits = theirs(input_ids=torch.from_numpy(rows[tokens])).logits.numpy()[:, -32:][..., rows]
    ours = np.asarray(jax.jit(model.apply)({'params': params}, tokens.astype(np.int32)))
    difference, largest = np.abs(ours - logits).max(), np.abs(logits).max()
    if not difference <= 1e-4 * largest:
        raise UserError(f'{directory}: logits differ by {difference:.2e} of {largest:.3g}; do not use it.')
    return f'logits     differ by at most {difference:.2e} of {largest:.3g} (peft {peft.__version__})'
