"""The methods that peft does not have, and what it computes otherwise, against NumPy."""

import jax
import numpy as np
import pytest

from palm_jax.models.architecture import Architecture
from palm_jax.models.layers import Projection
from palm_jax.peft.adapter import Adapter
from palm_jax.peft.bitfit import BitFit
from palm_jax.peft.method import AdaptedModel
from palm_jax.peft.prefix import KeysAndValues, Prefix
from palm_jax.training import state

D, F = 12, 20
ARCH = Architecture(vocab_size=8, num_layers=1, d_model=D, num_heads=2, num_kv_heads=2, head_dim=4)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def projected(method, x, kernel, own):
    model = AdaptedModel(Projection(ARCH, {'w': (F,)}, {'w': ('mlp',)}, name='p'), (method,))
    return np.asarray(model.apply({'params': {'w': kernel, method.name: own}}, x)[0])


def test_an_adapter_is_a_bottleneck_beside_the_output():
    x, kernel, down, up = normal(3, 5, D), normal(D, F), normal(F, 4), normal(4, F, seed=1)
    y = x @ kernel
    ours = projected(Adapter(bottleneck_dim=4, targets='w'), x, kernel, {'w_down': down, 'w_up': up})
    np.testing.assert_allclose(ours, y + gelu(y @ down) @ up, rtol=1e-4, atol=1e-4)


def test_bitfit_adds_a_bias():
    x, kernel, bias = normal(3, 5, D), normal(D, F), normal(F)
    ours = projected(BitFit(targets='w'), x, kernel, {'w': bias})
    np.testing.assert_allclose(ours, x @ kernel + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('width', [0, 5])
def test_a_prefix_is_learned_or_made_by_two_layers(width):
    P, G, K = 3, ARCH.num_kv_heads, ARCH.head_dim
    module = KeysAndValues(ARCH, Prefix(length=P, bottleneck_dim=width))
    params = state.unbox(module.init(jax.random.key(0))['params'])
    params = {name: normal(*value.shape, seed=i) for i, (name, value) in enumerate(sorted(params.items()))}
    keys, values = module.apply({'params': params})
    if width:
        hidden = np.tanh(params['e'] @ params['w'] + params['b'])
        expected = {n: np.einsum('pw,wgk->pgk', hidden, params[f'v_{n}']) + params[f'c_{n}'] for n in 'kv'}
    else:
        expected = params
    np.testing.assert_allclose(values, expected['v'][None], rtol=1e-5, atol=1e-5)
    # Keys are turned as at places -3, -2, -1: the pair (i, i + K/2) by place · θ^(-2i/K).
    angle = np.arange(-P, 0)[:, None] * ARCH.rope_theta ** (-2 * np.arange(K // 2) / K)
    pairs = expected['k'][..., : K // 2] + 1j * expected['k'][..., K // 2 :]
    turned = pairs * np.exp(1j * angle)[:, None]
    np.testing.assert_allclose(keys, np.concatenate([turned.real, turned.imag], -1)[None], rtol=1e-5, atol=1e-5)
    assert keys.shape == (1, P, G, K)
