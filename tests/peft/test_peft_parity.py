"""The methods' arithmetic against Hugging Face peft on the same weights, on one linear map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from palm_jax.models.architecture import Architecture
from palm_jax.models.layers import Projection
from palm_jax.peft.ia3 import IA3
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import Adapted

D, F, RANK = 24, 40, 4
ARCH = Architecture(vocab_size=8, num_layers=1, d_model=D, num_heads=2, head_dim=4)


class Holder(torch.nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.linear = torch.nn.Linear(D, F, bias=False)
        self.linear.weight.data = torch.from_numpy(kernel.T.copy())

    def forward(self, x):
        return self.linear(x)


def ours(method, x, kernel, own):
    """Output of the projection with a method attached, and its gradients."""
    model = Adapted(Projection(ARCH, {'w': (F,)}, {'w': ('mlp',)}, name='p'), (method,))

    def run(own):
        return model.apply({'params': {'w': kernel, method.name: own}}, x)[0]

    return np.asarray(run(own)), jax.grad(lambda own: jnp.square(run(own)).sum())(own)


@pytest.fixture
def x_and_kernel():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 5, D)).astype(np.float32), rng.normal(size=(D, F)).astype(np.float32)


@pytest.mark.parametrize('options', [{}, {'use_rslora': True}, {'use_dora': True}])
def test_lora_is_pefts(x_and_kernel, options):
    x, kernel = x_and_kernel
    theirs = get_peft_model(Holder(kernel), LoraConfig(r=RANK, lora_alpha=6, target_modules=['linear'], **options))
    layer = theirs.base_model.model.linear
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(D, RANK)).astype(np.float32), rng.normal(size=(RANK, F)).astype(np.float32)
    layer.lora_A['default'].weight.data = torch.from_numpy(a.T.copy())
    layer.lora_B['default'].weight.data = torch.from_numpy(b.T.copy())
    method = LoRA(RANK, 6.0, 'w', rank_stabilized='use_rslora' in options, decomposed='use_dora' in options)
    own = {'w_a': a, 'w_b': b}
    if method.decomposed:
        # What `start` computes is what peft begins with: the lengths of the kernel's columns.
        own['w_length'] = method.start(
            {'w': kernel[None]}, {k: v[None] for k, v in own.items()} | {'w_length': np.ones((1, F))}
        )['w_length'][0]
        begins = layer.lora_magnitude_vector['default'].weight.detach().numpy()
        np.testing.assert_allclose(own['w_length'], begins, rtol=1e-5)
        own['w_length'] = own['w_length'] * np.linspace(0.5, 1.5, F, dtype=np.float32)
        layer.lora_magnitude_vector['default'].weight.data = torch.from_numpy(np.asarray(own['w_length']).copy())
    y, gradient = ours(method, x, kernel, own)
    expected = theirs(torch.from_numpy(x))
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-5, atol=1e-4)
    expected.square().sum().backward()
    np.testing.assert_allclose(gradient['w_a'], layer.lora_A['default'].weight.grad.numpy().T, rtol=1e-3, atol=0.1)
    np.testing.assert_allclose(gradient['w_b'], layer.lora_B['default'].weight.grad.numpy().T, rtol=1e-3, atol=0.1)
    if method.decomposed:
        theirs_m = layer.lora_magnitude_vector['default'].weight.grad.numpy()
        np.testing.assert_allclose(gradient['w_length'], theirs_m, rtol=1e-3, atol=0.1)
    merged = method.merge({'w': kernel[None]}, {name: value[None] for name, value in own.items()})['w'][0]
    unloaded = theirs.merge_and_unload().linear.weight.detach().numpy().T
    np.testing.assert_allclose(merged, unloaded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('of_input', [False, True])
def test_ia3_is_pefts(x_and_kernel, of_input):
    x, kernel = x_and_kernel
    config = IA3Config(target_modules=['linear'], feedforward_modules=['linear'] if of_input else [])
    theirs = get_peft_model(Holder(kernel), config)
    scale = np.random.default_rng(1).normal(size=D if of_input else F).astype(np.float32)
    vector = theirs.base_model.model.linear.ia3_l['default']
    vector.data = torch.from_numpy(scale.reshape(vector.shape).copy())
    method = IA3('nothing', 'w') if of_input else IA3('w', 'nothing')
    name = 'input' if of_input else 'w'
    y, _ = ours(method, x, kernel, {name: scale})
    np.testing.assert_allclose(y, theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-4)
    merged = method.merge({'w': kernel[None]}, {name: scale[None]})['w'][0]
    np.testing.assert_allclose(merged, theirs.merge_and_unload().linear.weight.detach().numpy().T, rtol=1e-5, atol=1e-5)
