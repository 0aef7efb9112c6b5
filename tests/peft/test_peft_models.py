"""Whole models: ours with a method attached, and peft on the same model exported, with the same weights."""

import jax
import numpy as np
import pytest
import torch

from palm_jax.errors import UserError
from palm_jax.exchange import peft_directory
from palm_jax.peft.adalora import AdaLoRA
from palm_jax.peft.adapter import Adapter
from palm_jax.peft.ia3 import IA3
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import AdaptedModel
from palm_jax.peft.prefix import Prefix
from palm_jax.peft.prompt import SoftPrompt
from tests.support.cohere import cohere, relative_error
from tests.support.models import applied, initial, shaken

P, RANK = 3, 4
METHODS = {
    'lora': LoRA(rank=RANK, alpha=6.0),
    'lora of some': LoRA(rank=RANK, targets='stack/(attn/qkv/[qv]|mlp/out/kernel)'),
    'rslora': LoRA(rank=RANK, alpha=6.0, use_rslora=True),
    'dora': LoRA(rank=RANK, alpha=6.0, use_dora=True),
    'adalora': AdaLoRA(rank=RANK, alpha=6.0, target_rank=2),
    'ia3': IA3(),
    'ia3 of queries': IA3(targets='stack/attn/qkv/q', input_targets='stack/attn/out/kernel'),
    'prefix': Prefix(length=P),
    'wide prefix': Prefix(length=P, bottleneck_dim=5),
    'prompt': SoftPrompt(length=P),
}


@pytest.fixture(params=[{}, pytest.param({'num_kv_heads': 2}, marks=pytest.mark.slow)], ids=['one key head', 'grouped'])
def base(request, micro):
    return micro(**request.param)


def with_method(model, method):
    """Parameters away from the start: what the method does is visible."""
    adapted = AdaptedModel(model, (method,))
    params = shaken(initial(adapted, seed=1))
    own = [path for path, _ in jax.tree_util.tree_leaves_with_path(params) if method.name in str(path)]
    assert own
    return adapted, params


def without(params, name):
    if not isinstance(params, dict):
        return params
    return {key: without(value, name) for key, value in params.items() if key != name}


@pytest.mark.parametrize('method', METHODS.values(), ids=METHODS)
def test_peft_computes_the_same(method, base, tokens):
    adapted, params = with_method(base[0], method)
    exported, ids = cohere(base[0], without(params, method.name)), torch.from_numpy(tokens.astype(np.int64))
    plain = exported(input_ids=ids).logits.detach()
    theirs = peft_directory.attach(exported, method, params, base[0].arch)
    logits = theirs(input_ids=ids).logits.detach()[:, -tokens.shape[1] :]
    assert relative_error(applied(adapted, params, tokens), logits) < 1e-5
    assert relative_error(plain, logits) > 1e-3


@pytest.mark.parametrize('method', [METHODS['lora'], METHODS['adalora'], METHODS['prefix']], ids=str)
def test_the_directory_is_loaded_by_peft(method, base, tokens, tmp_path):
    adapted, params = with_method(base[0], method)
    cohere(base[0], without(params, method.name)).save_pretrained(tmp_path / 'base')
    rows = np.arange(61)
    said = peft_directory.write(adapted, params, rows, tmp_path / 'base', tmp_path / 'adapter')
    assert 'differ by at most' in said
    files = {path.name for path in (tmp_path / 'adapter').iterdir()}
    assert {'adapter_config.json', 'adapter_model.safetensors'} <= files
    other = jax.tree.map(lambda x: x * 1.05, params)
    with pytest.raises(UserError, match=r'do not use it'):
        peft_directory.write(adapted, other, rows, tmp_path / 'base', tmp_path / 'other')


def test_what_peft_has_not_is_refused(base, tmp_path):
    adapted, params = with_method(base[0], Adapter(bottleneck_dim=4))
    with pytest.raises(UserError, match=r'peft has no Adapter'):
        peft_directory.attach(None, adapted.methods[0], params, base[0].arch)
    with pytest.raises(UserError, match=r'is not a Transformers model'):
        peft_directory.write(adapted, params, np.arange(61), tmp_path, tmp_path / 'adapter')
    with pytest.raises(UserError, match=r'has no adapter.* --format=hf exports the whole model'):
        peft_directory.write(AdaptedModel(base[0]), params, np.arange(61), tmp_path, tmp_path / 'adapter')
