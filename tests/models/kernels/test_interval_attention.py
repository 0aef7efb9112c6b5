"""The kernels of interval attention, interpreted, against the reference under every mask that consists of intervals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.models.kernels.attention import attend, reference_attend
from palm_jax.models.kernels.interval_attention import applies, intervals
from palm_jax.models.masks import Mask
from palm_jax.models.palm import Architecture, PaLM
from tests.support.models import initial

B, L, H, K = 2, 256, 4, 32


def segments():
    """Documents of unequal lengths, one of a single token, with and without padding after them."""
    ids = np.zeros((B, L), np.int32)
    for number, (first, last) in enumerate(((0, 70), (70, 71), (71, 200)), start=1):
        ids[0, first:last] = number
    ids[1, :130], ids[1, 130:] = 1, 2
    return ids


def prefixes():
    """The inputs of some documents: a part of one, none of the next, all of the last."""
    inputs = np.zeros((B, L), np.int32)
    inputs[0, :30], inputs[0, 150:200] = 0, 0
    inputs[0, 71:120], inputs[1, :50], inputs[1, 130:] = 1, 1, 1
    return inputs


MASKS = {
    'causal': Mask(),
    'segments': Mask(segments()),
    'prefixes': Mask(segments(), prefixes()),
    'one prefix': Mask(causal_attention=np.repeat([[1] * 77 + [0] * 179], B, 0).astype(np.int32)),
    'both directions': Mask(segments(), np.ones((B, L), np.int32)),
    'window': Mask(segments(), prefixes(), window=17),
    'one row for all': Mask(segments()[:1], prefixes()[:1]),
}


@pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)
def test_an_interval_holds_the_keys_that_the_mask_allows(mask):
    start, end = (np.asarray(x)[:, :, None] for x in intervals(mask, B, L))
    keys = np.arange(L)
    np.testing.assert_array_equal((start <= keys) & (keys < end), np.broadcast_to(mask.allowed(L), (B, L, L)))
    assert (np.diff(start, axis=1) >= 0).all()
    assert (np.diff(end, axis=1) >= 0).all()


@pytest.mark.parametrize('kv_heads', [1, 2])
@pytest.mark.parametrize('name', ['causal', 'prefixes', 'window'])
def test_value_and_gradients_equal_the_reference(name, kv_heads):
    rng = np.random.default_rng(0)
    q, k, v, dy = (jnp.asarray(rng.normal(size=(B, L, n, K)), jnp.float32) for n in (H, kv_heads, kv_heads, H))

    def value_and_gradients(function):
        y, backward = jax.vjp(jax.jit(lambda q, k, v: function(q, k, v, MASKS[name])), q, k, v)
        return y, *jax.jit(backward)(dy)

    ours = value_and_gradients(lambda *inputs: attend(*inputs, 'intervals'))
    for a, b in zip(ours, value_and_gradients(reference_attend), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('head_dim', [8, 48, 64, 256])
def test_every_kernel_size_equals_the_reference(head_dim):
    rng = np.random.default_rng(1)
    q, k, v, dy = (jnp.asarray(rng.normal(size=(1, 128, n, head_dim)), jnp.float32) for n in (2, 1, 1, 2))
    mask = Mask(np.repeat([1, 2, 0], [50, 60, 18])[None].astype(np.int32))

    def value_and_gradients(function):
        y, backward = jax.vjp(lambda q, k, v: function(q, k, v, mask), q, k, v)
        return y, *backward(dy)

    ours = value_and_gradients(lambda *inputs: attend(*inputs, 'intervals'))
    for a, b in zip(ours, value_and_gradients(reference_attend), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    'length, num_keys, head_dim, mask, result',
    [
        (256, 256, 128, Mask(), True),
        (200, 200, 128, Mask(), False),
        (256, 256, 48, Mask(), True),
        (256, 256, 264, Mask(), False),
        (256, 260, 128, Mask(num_prefix=4), False),
        (1, 256, 128, Mask(query_positions=np.zeros((1, 1), np.int32)), False),
    ],
)
def test_applies(length, num_keys, head_dim, mask, result):
    q, k = (jax.ShapeDtypeStruct((1, size, 1, head_dim), jnp.bfloat16) for size in (length, num_keys))
    assert applies(q, k, mask) == result


def test_what_does_not_apply_is_an_error_or_another_implementation():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 48, 2, 24)), jnp.float32)
    inputs = x, x[:, :, :1], x[:, :, :1], Mask()
    with pytest.raises(UserError, match=r'multiple of 128, .*; here they are 48, 24 and a prefix of 0'):
        attend(*inputs, 'intervals')
    for kernel in ('intervals', 'splash'):
        np.testing.assert_array_equal(attend(*inputs, kernel, required=False), attend(*inputs))


@pytest.mark.parametrize('kernel', ['intervals', 'splash'])
def test_a_model_with_a_kernel_for_long_sequences_starts_and_writes(kernel):
    """Parameters are initialized with a short sequence, and a step of decoding has one query."""
    arch = Architecture(vocab_size=64, num_layers=1, d_model=32, num_heads=2, head_dim=128)
    tokens = np.arange(1, 129, dtype=np.int32)[None] % 64
    results = []
    for implementation in (kernel, 'auto'):
        model = PaLM(dataclasses.replace(arch, attention=implementation))
        params = initial(model)
        _, cache = model.apply({'params': params}, tokens[:, :5], method='features', mutable=['cache'])
        cache = jax.tree.map(lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(0, 3), (0, 0), (0, 0)]), cache)
        step = model.apply(
            {'params': params} | cache, tokens[:, 5:6], np.array([[5]]), method='features', mutable=['cache']
        )
        results.append((model.apply({'params': params}, tokens), step[0]))
    for ours, plain in zip(*results, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != 'gpu', reason='needs a GPU')
@pytest.mark.parametrize('head_dim', [64, 128, 256])
def test_kernels_on_a_gpu(head_dim):
    rng = np.random.default_rng(2)
    q, k, v, dy = (jnp.asarray(rng.normal(size=(B, L, n, head_dim)), jnp.bfloat16) for n in (H, 1, 1, H))

    def value_and_gradients(function):
        y, backward = jax.vjp(lambda q, k, v: function(q, k, v, MASKS['prefixes']), q, k, v)
        return y, *backward(dy.astype(y.dtype))

    ours = value_and_gradients(lambda *inputs: attend(*inputs, 'intervals'))
    for a, b in zip(ours, value_and_gradients(reference_attend), strict=True):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b)
