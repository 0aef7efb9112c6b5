"""Quantized weights: the rounding, products with them and their gradients, and memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.models.quantization import (
    QuantizedWeight,
    dequantize,
    dequantize_tree,
    is_quantized,
    quantize,
)
from palm_jax.parameters import path_name
from palm_jax.training.base_weights import quantize_kernels
from tests.support.models import applied

# Dettmers et al. 2023 (arXiv 2305.14314), appendix E, to four decimals.
NF4 = [
    -1,
    -0.6962,
    -0.5251,
    -0.3949,
    -0.2844,
    -0.1848,
    -0.0911,
    0,
    0.0796,
    0.1609,
    0.2461,
    0.3379,
    0.4407,
    0.5626,
    0.723,
    1,
]


@pytest.mark.parametrize(('shape', 'inputs', 'block'), [((128, 3, 4), (0,), 64), ((2, 100, 5), (1,), 50)])
def test_nf4_rounds_to_the_nearest_number_of_the_paper_times_the_largest_of_the_block(shape, inputs, block):
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rounded = np.asarray(dequantize(quantize(jnp.asarray(weight), inputs, 'nf4'), 'float32'))
    blocks, near = (np.moveaxis(x, inputs[-1], -1).reshape(-1, block) for x in (weight, rounded))
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    table = np.array(NF4)
    expected = table[np.abs(blocks[..., None] / scale[..., None] - table).argmin(-1)] * scale
    np.testing.assert_allclose(near, expected, atol=1e-4 * scale.max())


def test_int8_has_one_scale_for_each_output():
    weight = np.random.default_rng(0).normal(size=(6, 8, 5)).astype(np.float32)
    rounded = quantize(jnp.asarray(weight), (0, 1), 'int8')
    assert rounded.values.dtype == jnp.int8 and rounded.scale.shape == (1, 1, 5)
    step = np.abs(weight).max(axis=(0, 1)) / 127
    assert (np.abs(np.asarray(dequantize(rounded, 'float32')) - weight) <= 0.51 * step).all()


@pytest.mark.parametrize('qtype', ['int8', 'nf4'])
@pytest.mark.parametrize('unroll', [1, 0])
def test_a_quantized_model_computes_what_its_dequantized_weights_do(micro, qtype, unroll):
    model, params = micro(d_model=64, num_kv_heads=2, unroll_layers=unroll)
    small = quantize_kernels(params, qtype)
    kept = {
        path_name(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(small, is_leaf=is_quantized)
        if not is_quantized(leaf)
    }
    assert kept == {'embed/embedding', 'final_norm/scale', 'stack/norm/scale'}
    tokens = np.random.default_rng(0).integers(3, 61, (2, 9))
    large = dequantize_tree(small, 'float32')
    np.testing.assert_allclose(applied(model, small, tokens), applied(model, large, tokens), rtol=1e-5, atol=1e-5)

    def loss(norm, params):
        params = params | {'stack': params['stack'] | {'norm': norm}}
        return jnp.sum(model.apply({'params': params}, tokens) ** 2)

    ours, theirs = (jax.jit(jax.grad(loss))(params['stack']['norm'], p)['scale'] for p in (small, large))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(np.abs(theirs).max()))


def test_the_gradient_keeps_no_dequantized_kernel():
    """What the backward pass needs of a quantized kernel is computed again."""
    from palm_jax.models.architecture import Architecture
    from palm_jax.models.layers import Projection

    arch = Architecture(vocab_size=8, num_layers=1, d_model=256, num_heads=1)
    module = Projection(arch, outputs={'kernel': (512,)}, axes={'kernel': ('mlp',)})
    x = jnp.ones((1, 4, 256))
    weight = quantize(jax.random.normal(jax.random.key(0), (256, 512)), (0,), 'nf4')
    _, pullback = jax.vjp(lambda x: module.apply({'params': {'kernel': weight}}, x)[0], x)
    kept = [leaf for leaf in jax.tree.leaves(pullback) if hasattr(leaf, 'dtype')]
    assert kept and not any(leaf.size >= weight.values.size and leaf.dtype == jnp.float32 for leaf in kept)


def test_logical_axes_of_boxed_kernels_stay_and_a_shared_scale_is_not_split():
    boxed = nn.Partitioned(jnp.ones((2, 128, 4, 8)), ('layers', 'embed', 'heads', 'kv'))
    q = quantize_kernels({'stack': {'attn': {'qkv': {'q': boxed}}}}, 'nf4')['stack']['attn']['qkv']['q']
    assert isinstance(q, QuantizedWeight)
    assert q.values.names == ('layers', 'embed', 'heads', 'kv')
    assert q.scale.names == ('layers', None, 'heads', 'kv') and q.scale.value.shape == (2, 2, 4, 8)
