"""Whole models: ours with a method attached, and peft on the same model exported, with the same weights."""

import jax
import numpy as np
import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)

from palm_jax.models.rotary import rotate
from palm_jax.peft.adalora import AdaLoRA
from palm_jax.peft.ia3 import IA3
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import Adapted
from palm_jax.peft.prefix import Prefix
from palm_jax.peft.prompt import Prompt
from palm_jax.training import state
from tests.models.test_cohere import cohere, interleave, relative_error
from tests.peft.test_methods import shaken

P, RANK = 3, 4
# Where a kernel lies in our tree and how it is called there.
LINEAR = {
    'self_attn.q_proj': ('attn', 'qkv', 'q'),
    'self_attn.k_proj': ('attn', 'qkv', 'k'),
    'self_attn.v_proj': ('attn', 'qkv', 'v'),
    'self_attn.o_proj': ('attn', 'out', 'kernel'),
    'mlp.gate_proj': ('mlp', 'in', 'gate'),
    'mlp.up_proj': ('mlp', 'in', 'up'),
    'mlp.down_proj': ('mlp', 'out', 'kernel'),
}
EVERY = [name.split('.')[1] for name in LINEAR]


def low_rank(theirs, name, own, kernel, layer):
    """A, B, E and lengths of one kernel of one layer, by peft's names."""
    turned = interleave if kernel in ('q', 'k') else np.asarray
    a, b = (np.asarray(own[f'{kernel}_{part}'][layer]) for part in 'ab')
    rank = b.shape[0]
    set_weight(theirs, f'{name}.lora_A.default', a.reshape(-1, rank).T)
    set_weight(theirs, f'{name}.lora_B.default', turned(b).reshape(rank, -1).T)
    if f'{kernel}_e' in own:
        set_weight(theirs, f'{name}.lora_E.default', np.asarray(own[f'{kernel}_e'][layer])[:, None])
    if f'{kernel}_length' in own:
        set_weight(theirs, f'{name}.lora_magnitude_vector.default', turned(own[f'{kernel}_length'][layer]).reshape(-1))


def scales(theirs, name, own, kernel, layer):
    """(IA)³'s vector of one kernel of one layer."""
    vector = own.get('input') if kernel == 'kernel' else own.get(kernel)
    if vector is not None:
        turned = interleave if kernel == 'k' else np.asarray
        set_weight(theirs, f'{name}.ia3_l.default', turned(vector[layer]))


def set_weight(theirs, path, value):
    matching = [p for n, p in theirs.named_parameters() if path in n]
    assert len(matching) == 1, path
    with torch.no_grad():
        matching[0].copy_(torch.from_numpy(np.array(value)).reshape(matching[0].shape))


ON_LINEAR_MAPS = {
    'lora': (LoRA(rank=RANK, alpha=6.0), LoraConfig(r=RANK, lora_alpha=6, target_modules=EVERY), low_rank),
    'rslora': (
        LoRA(rank=RANK, alpha=6.0, rank_stabilized=True),
        LoraConfig(r=RANK, lora_alpha=6, target_modules=EVERY, use_rslora=True),
        low_rank,
    ),
    'dora': (
        LoRA(rank=RANK, alpha=6.0, decomposed=True),
        LoraConfig(r=RANK, lora_alpha=6, target_modules=EVERY, use_dora=True),
        low_rank,
    ),
    'adalora': (
        AdaLoRA(rank=RANK, alpha=6.0, target_rank=2),
        AdaLoraConfig(init_r=RANK, lora_alpha=6, target_modules=EVERY, total_step=10),
        low_rank,
    ),
    'ia3': (
        IA3(),
        IA3Config(target_modules=['k_proj', 'v_proj', 'down_proj'], feedforward_modules=['down_proj']),
        scales,
    ),
}


@pytest.fixture(params=[{}, {'num_kv_heads': 2}], ids=['one key head', 'grouped'])
def base(request, micro):
    return micro(**request.param)


def with_method(model, method):
    """Parameters away from the start: what the method does is visible."""
    adapted = Adapted(model, (method,))
    params = shaken(state.unbox(state.init_params(adapted, jax.random.key(1))))
    own = [path for path, _ in jax.tree_util.tree_leaves_with_path(params) if method.name in str(path)]
    assert own
    return adapted, params


def without(params, name):
    if not isinstance(params, dict):
        return params
    return {key: without(value, name) for key, value in params.items() if key != name}


@pytest.mark.parametrize('name', ON_LINEAR_MAPS)
def test_methods_on_linear_maps(name, base, tokens):
    method, config, place = ON_LINEAR_MAPS[name]
    adapted, params = with_method(base[0], method)
    exported = cohere(base[0], without(params, method.name))
    plain = exported(input_ids=torch.from_numpy(tokens.astype(np.int64))).logits.detach()
    theirs = get_peft_model(exported, config)
    for layer in range(base[0].arch.num_layers):
        for linear, (branch, projection, kernel) in LINEAR.items():
            own = params['stack'][branch][projection].get(method.name)
            if own is not None:
                place(theirs, f'layers.{layer}.{linear}', own, kernel, layer)
    logits = theirs(input_ids=torch.from_numpy(tokens.astype(np.int64))).logits.detach()
    assert relative_error(adapted.apply({'params': params}, tokens), logits) < 1e-5
    assert relative_error(plain, logits) > 1e-2


def test_prefix_tuning(base, tokens):
    adapted, params = with_method(base[0], Prefix(length=P))
    arch, own = base[0].arch, params['stack']['attn']['memory']['prefix']
    config = PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=P,
        num_layers=arch.num_layers,
        num_attention_heads=arch.num_kv_heads,
        token_dim=arch.num_kv_heads * arch.head_dim,
        num_transformer_submodules=1,
    )
    theirs = get_peft_model(cohere(base[0], without(params, 'prefix')), config)
    # Theirs are a cache's, turned as if at 0, 1, 2 with the text from 3 on; ours turn where they are used.
    keys = interleave(rotate(own['k'], np.arange(P)[None], arch.rope_theta))
    both = np.stack([keys, np.asarray(own['v'])], axis=1)  # [N, 2, P, G, K]
    set_weight(theirs, 'prompt_encoder.default.embedding', both.transpose(2, 0, 1, 3, 4).reshape(P, -1))
    logits = theirs(input_ids=torch.from_numpy(tokens.astype(np.int64))).logits.detach()
    assert relative_error(adapted.apply({'params': params}, tokens), logits) < 1e-5


def test_prompt_tuning(base, tokens):
    adapted, params = with_method(base[0], Prompt(length=P))
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=P)
    theirs = get_peft_model(cohere(base[0], without(params, 'prompt')), config)
    set_weight(theirs, 'prompt_encoder.default.embedding', params['prompt']['embedding'])
    logits = theirs(input_ids=torch.from_numpy(tokens.astype(np.int64))).logits.detach()[:, P:]
    assert relative_error(adapted.apply({'params': params}, tokens), logits) < 1e-5
