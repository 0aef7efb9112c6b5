"""The methods' arithmetic against Hugging Face peft on the same weights, on one linear map."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, get_peft_model

from palm_jax.models.architecture import Architecture
from palm_jax.models.layers import Projection
from palm_jax.peft.adalora import AdaLoRA
from palm_jax.peft.ia3 import IA3
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import AdaptedModel
from palm_jax.training import schedules
from palm_jax.training.optimizers import Optimizer

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
    model = AdaptedModel(Projection(ARCH, {'w': (F,)}, {'w': ('mlp',)}, name='p'), (method,))

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
    method = LoRA(RANK, 6.0, 'w', use_rslora='use_rslora' in options, use_dora='use_dora' in options)
    own = {'w_a': a, 'w_b': b}
    if method.use_dora:
        # What `start` computes is what peft begins with: the lengths of the kernel's columns.
        own['w_length'] = method.init_from_base(
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
    if method.use_dora:
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


class TwoMaps(torch.nn.Module):
    """Two linear maps whose ranks compete; a call returns a loss, to which peft adds its regularization."""

    def __init__(self, kernels):
        super().__init__()
        for name, kernel in kernels.items():
            layer = torch.nn.Linear(*kernel.shape, bias=False)
            layer.weight.data = torch.from_numpy(kernel.T.copy())
            setattr(self, name, layer)

    def forward(self, x, target):
        output = self.second(torch.tanh(self.first(x)))
        return types.SimpleNamespace(loss=(output - target).square().mean())


def test_adalora_is_pefts_step_by_step():
    rng = np.random.default_rng(0)
    total, rank, target_rank, rate = 24, 4, 2, 0.05
    kernels = {'first': rng.normal(size=(6, 10)), 'second': rng.normal(size=(10, 5))}
    kernels = {name: kernel.astype(np.float32) / 3 for name, kernel in kernels.items()}
    x, y = rng.normal(size=(32, 6)).astype(np.float32), rng.normal(size=(32, 5)).astype(np.float32)
    config = AdaLoraConfig(
        init_r=rank,
        target_r=target_rank,
        lora_alpha=6,
        target_modules=list(kernels),
        tinit=4,
        tfinal=6,
        deltaT=3,
        total_step=total,
        orth_reg_weight=0.3,
        beta1=0.8,
        beta2=0.7,
    )
    theirs = get_peft_model(TwoMaps(kernels), config)
    optimizer = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], lr=rate)

    method = AdaLoRA(
        rank=rank,
        alpha=6.0,
        target_rank=target_rank,
        total_steps=total,
        warmup_steps=4,
        final_steps=6,
        allocation_period=3,
        beta1=0.8,
        beta2=0.7,
        orthogonality=0.3,
    )
    params = {}
    for name in kernels:
        layer = getattr(theirs.base_model.model, name)
        a, b, e = (getattr(layer, f'lora_{part}')['default'].detach().numpy().T.copy() for part in 'ABE')
        params[name] = {method.name: {'w_a': a, 'w_b': b, 'w_e': e[0]}}

    def loss(params):
        h = x
        for name, kernel in kernels.items():
            own = params[name][method.name]
            h = h @ kernel + method.scale * ((h @ (own['w_a'] * own['w_e'])) @ own['w_b'])
            h = jnp.tanh(h) if name == 'first' else h
        return jnp.mean(jnp.square(h - y)) + method.penalty(params)

    sgd = optax.sgd(rate)
    ours = method.wrap_optimizer(Optimizer(sgd.init, sgd.update, schedules.constant(rate)))
    state, ranks = ours.init(params), []
    step = jax.jit(lambda p, s: ours.update(jax.grad(loss)(p), s, p))
    for number in range(1, total + 1):
        optimizer.zero_grad()
        value = theirs.base_model(torch.from_numpy(x), torch.from_numpy(y)).loss  # with the penalty
        np.testing.assert_allclose(loss(params), value.item(), rtol=1e-5)
        value.backward()
        optimizer.step()
        theirs.base_model.update_and_allocate(number)
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
        for name in kernels:
            layer, own = getattr(theirs.base_model.model, name), params[name][method.name]
            for part in 'ABE':
                expected = getattr(layer, f'lora_{part}')['default'].detach().numpy().T
                np.testing.assert_allclose(
                    own[f'w_{part.lower()}'], expected.reshape(own[f'w_{part.lower()}'].shape), rtol=1e-4, atol=1e-6
                )
            allocator = theirs.base_model.rankallocator
            if number < total - 6:
                key = f'{name}.lora_A.default'
                for ours_, theirs_ in (('sensitivity', 'exp_avg_ipt'), ('uncertainty', 'exp_avg_unc')):
                    average = getattr(allocator, theirs_)[key].numpy().T
                    np.testing.assert_allclose(state[ours_][name][method.name]['w_a'], average, rtol=1e-3, atol=1e-7)
        ranks.append(sum(int((params[name][method.name]['w_e'] != 0).sum()) for name in kernels))
        budget, chosen = theirs.base_model.rankallocator.budget_schedule(number)
        kept, chooses = method.budget(2)
        assert kept[number] == budget and (chooses[number] == chosen or number >= total - 6), number
    assert ranks[0] == 2 * rank and ranks[-1] == 2 * target_rank and min(ranks) == ranks[-1]
