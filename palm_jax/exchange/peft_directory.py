"""Directories for Hugging Face peft with the weights of a fine-tuning method, to load onto the exported base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.errors import UserError
from palm_jax.exchange import hf_config
from palm_jax.exchange.directories import apply_umask, prepare
from palm_jax.exchange.families import family_for
from palm_jax.exchange.tensors import interleave
from palm_jax.models.architecture import Architecture
from palm_jax.models.kernels.rope import rotate
from palm_jax.peft.adalora import AdaLoRA
from palm_jax.peft.ia3 import IA3
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import Method
from palm_jax.peft.prefix import KeysAndValues, Prefix
from palm_jax.peft.prompt import SoftPrompt

# Name of a linear layer in Transformers: branch, projection, kernel.
LINEAR = {
    'self_attn.q_proj': ('attn', 'qkv', 'q'),
    'self_attn.k_proj': ('attn', 'qkv', 'k'),
    'self_attn.v_proj': ('attn', 'qkv', 'v'),
    'self_attn.o_proj': ('attn', 'out', 'kernel'),
    'mlp.gate_proj': ('mlp', 'in', 'gate'),
    'mlp.up_proj': ('mlp', 'in', 'up'),
    'mlp.down_proj': ('mlp', 'out', 'kernel'),
}
Weights: TypeAlias = dict[str, np.ndarray]  # by the suffix of their names in peft


def attach(base: Any, method: Method, params: Mapping[str, Any], arch: Architecture) -> Any:
    """Return peft's model of the same method with the same weights.

    Args:
      base: causal language model of Transformers with the weights of the base.
      method: LoRA (rsLoRA, DoRA), AdaLoRA, (IA)³, prefix or prompt tuning.
      params: parameters of this project, including the method's.
      arch: architecture of the base.

    Raises:
      UserError: if peft does not have the method.
    """
    import torch
    from peft import get_peft_model

    kinds: dict[type, Callable[..., tuple[Any, Weights]]] = {
        AdaLoRA: _adalora,
        LoRA: _lora,
        IA3: _ia3,
        Prefix: _prefix,
        SoftPrompt: _prompt,
    }
    if type(method) not in kinds:
        raise UserError(
            f'peft has no {type(method).__name__}. It has: {", ".join(kind.__name__ for kind in kinds)}. '
            'If the method can be merged, --format=hf exports the whole model.'
        )
    config, weights = kinds[type(method)](method, params, arch)
    model = get_peft_model(base, config)
    named = dict(model.named_parameters())
    for suffix, value in weights.items():
        (name,) = (n for n in named if n.endswith(suffix))
        with torch.no_grad():
            named[name].copy_(torch.from_numpy(np.array(value, np.float32)).reshape(named[name].shape))
    return model.eval()


def _of_linear_layers(
    method: Method,
    params: Mapping[str, Any],
    arch: Architecture,
    weights_of: Callable[[dict, str, Architecture], Weights],
) -> tuple[list[str], Weights]:
    """Return the names of the linear layers with weights of the method, and those weights in all layers."""
    names: list[str] = []
    weights: Weights = {}
    for linear, (branch, projection, kernel) in LINEAR.items():
        own = params['stack'][branch][projection].get(method.name, {})
        for layer in range(arch.num_layers):
            found = weights_of({name: np.asarray(value[layer]) for name, value in own.items()}, kernel, arch)
            weights |= {f'layers.{layer}.{linear}.{suffix}': value for suffix, value in found.items()}
        names += [linear.split('.')[1]] if found else []
    return names, weights


def _permutation(arch: Architecture, kernel: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from outputs of a kernel here to those of the layer in Transformers."""
    return interleave if kernel in ('q', 'k') and family_for(arch).interleaved else np.asarray


def _low_rank(own: Mapping[str, np.ndarray], kernel: str, arch: Architecture) -> Weights:
    """Return A, B, E and magnitudes of one kernel of one layer."""
    if f'{kernel}_a' not in own:
        return {}
    permute = _permutation(arch, kernel)
    a, b = own[f'{kernel}_a'], own[f'{kernel}_b']
    rank = b.shape[0]
    weights: Weights = {
        'lora_A.default.weight': a.reshape(-1, rank).T,
        'lora_B.default.weight': permute(b).reshape(rank, -1).T,
    }
    if f'{kernel}_e' in own:  # in AdaLoRA these are parameters, not modules
        weights = {name.removesuffix('.weight'): value for name, value in weights.items()}
        weights['lora_E.default'] = own[f'{kernel}_e'][:, None]
    if f'{kernel}_length' in own:
        weights['lora_magnitude_vector.default.weight'] = permute(own[f'{kernel}_length']).reshape(-1)
    return weights


def _lora(method: LoRA, params: Mapping[str, Any], arch: Architecture) -> tuple[Any, Weights]:
    from peft import LoraConfig

    names, weights = _of_linear_layers(method, params, arch, _low_rank)
    config = LoraConfig(
        task_type='CAUSAL_LM', r=method.rank, lora_alpha=method.alpha, target_modules=names,  # type: ignore[arg-type]  # peft takes floats, too
        use_rslora=method.use_rslora, use_dora=method.use_dora,
    )  # fmt: skip
    return config, weights


def _adalora(method: AdaLoRA, params: Mapping[str, Any], arch: Architecture) -> tuple[Any, Weights]:
    from peft import AdaLoraConfig

    names, weights = _of_linear_layers(method, params, arch, _low_rank)
    config = AdaLoraConfig(
        task_type='CAUSAL_LM', init_r=method.rank, target_r=method.target_rank, lora_alpha=method.alpha,  # type: ignore[arg-type]  # peft takes floats, too
        target_modules=names, total_step=method.total_steps,
    )  # fmt: skip
    return config, weights


def _ia3(method: IA3, params: Mapping[str, Any], arch: Architecture) -> tuple[Any, Weights]:
    from peft import IA3Config

    if arch.qkv_bias:
        raise UserError('The vectors of (IA)³ multiply biases in peft, but not here. Use --format=hf.')

    def scales(own: Mapping[str, np.ndarray], kernel: str, arch: Architecture) -> Weights:
        vector = own.get('input') if kernel == 'kernel' else own.get(kernel)
        if vector is None:
            return {}
        return {'ia3_l.default': _permutation(arch, kernel)(vector)}

    names, weights = _of_linear_layers(method, params, arch, scales)
    of_inputs = [name for name in names if name in ('o_proj', 'down_proj')]
    return IA3Config(task_type='CAUSAL_LM', target_modules=names, feedforward_modules=of_inputs), weights


def _prefix(method: Prefix, params: Mapping[str, Any], arch: Architecture) -> tuple[Any, Weights]:
    from peft import PrefixTuningConfig

    P, own = method.length, params['stack']['attn']['memory'][method.name]
    both = jax.vmap(lambda layer: KeysAndValues(arch, method).apply({'params': layer}))(own)
    k_NPGK, v_NPGK = (np.asarray(x)[:, 0] for x in both)
    # Positions here are -P to -1, before the text; in peft, a cache at 0 to P - 1 with the text after it.
    k_NPGK = np.asarray(rotate(jnp.asarray(k_NPGK), jnp.full((1, P), P), arch.rope_theta, scaling=arch.scaled_rope))
    k_NPGK = _permutation(arch, 'k')(k_NPGK)
    both_N2PGK = np.stack([k_NPGK, v_NPGK], axis=1)
    config = PrefixTuningConfig(
        task_type='CAUSAL_LM', num_virtual_tokens=P, num_layers=arch.num_layers, num_attention_heads=arch.num_kv_heads,
        token_dim=arch.num_kv_heads * arch.head_dim, num_transformer_submodules=1,
    )  # fmt: skip
    return config, {'prompt_encoder.default.embedding.weight': both_N2PGK.transpose(2, 0, 1, 3, 4).reshape(P, -1)}


def _prompt(method: SoftPrompt, params: Mapping[str, Any], arch: Architecture) -> tuple[Any, Weights]:
    from peft import PromptTuningConfig

    config = PromptTuningConfig(task_type='CAUSAL_LM', num_virtual_tokens=method.length)
    prompt_PD = np.asarray(params[method.name]['embedding'], np.float32) * arch.embedding_scale
    return config, {'prompt_encoder.default.embedding.weight': prompt_PD}


def check(model: Any) -> None:
    """Raise a UserError if a model has not exactly one method, with the format to use instead."""
    if not model.methods:
        raise UserError(
            'This run has no adapter: it trained weights of the model itself. --format=hf exports the whole model.'
        )
    if len(model.methods) > 1:
        names = ', '.join(method.name for method in model.methods)
        raise UserError(
            f'A peft directory has one method, but this run has {len(model.methods)}: {names}. '
            '--format=hf exports the whole model, if all of them can be merged.'
        )


def write(model: Any, params: Any, permutation: np.ndarray, base: Path, directory: Path) -> str:
    """Write the directory, load it again onto the base, and compare logits.

    Args:
      model: model with a single method.
      params: its parameters.
      permutation: id in tokenizer.json of every id here, int64 [V]; see `hf_directory.token_id_permutation`.
      base: directory that `--format=hf` wrote for the base.
      directory: new or empty directory.

    Returns:
      A line that describes the comparison.

    Raises:
      UserError: if there is not exactly one method, the base is missing, or logits differ.
    """
    check(model)
    if not (base / 'config.json').is_file():
        raise UserError(
            f'--base={base} is not a Transformers model. Export the base first: '
            f'palm-jax export --gin_file=BASE/config.gin {base}'
        )
    hf_config.architecture(hf_config.read(base))
    prepare(directory)
    import peft
    import torch
    import transformers

    def load() -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()

    attach(load(), model.methods[0], params, model.arch).save_pretrained(directory)
    apply_umask(directory)
    theirs = peft.PeftModel.from_pretrained(load(), directory).eval()
    tokens = np.random.default_rng(0).integers(0, model.arch.vocab_size, (4, 32))
    with torch.no_grad():
        logits = theirs(input_ids=torch.from_numpy(permutation[tokens])).logits.numpy()[:, -32:][..., permutation]
    ours = np.asarray(jax.jit(model.apply)({'params': params}, tokens.astype(np.int32)))
    difference, largest = np.abs(ours - logits).max(), np.abs(logits).max()
    if not difference <= 1e-4 * largest:
        raise UserError(f'{directory}: logits differ by {difference:.2e} of {largest:.3g}; do not use it.')
    return f'logits     differ by at most {difference:.2e} of {largest:.3g} (peft {peft.__version__})'
