"""Every implementation of attention against NumPy and against the reference, under every mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.models.kernels.attention import attend, attend_in_blocks, reference_attend
from palm_jax.models.masks import Mask
from tests.support.platforms import as_on_a_gpu

B, L, H, K = 2, 150, 4, 8  # longer than a query block


def numpy_attention(q, k, v, allowed):
    group = q.shape[2] // k.shape[2]
    out = np.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            score = q[b, :, h] @ k[b, :, h // group].T / np.sqrt(q.shape[-1])
            score = np.where(allowed[b], score, -np.inf)
            weight = np.exp(score - score.max(-1, keepdims=True))
            out[b, :, h] = weight / weight.sum(-1, keepdims=True) @ v[b, :, h // group]
    return out


SEGMENTS = np.repeat([[1] * 60 + [2] * 90], B, axis=0).astype(np.int32)
PREFIX = np.repeat([[1] * 70 + [0] * 80], B, axis=0).astype(np.int32)


def rule(q, m, segments, prefix):
    sees = m <= q or (prefix is not None and prefix[q] and prefix[m])
    return sees and (segments is None or segments[q] == segments[m])


MASKS = {'causal': (None, None), 'segments': (SEGMENTS, None), 'prefix': (None, PREFIX), 'both': (SEGMENTS, PREFIX)}


@pytest.mark.parametrize('implementation', ['blocks', 'xla'])
@pytest.mark.parametrize('kv_heads', [1, 2, 4])
@pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)
def test_attention_equals_numpy(implementation, kv_heads, mask):
    segments, prefix = mask
    rng = np.random.default_rng(0)
    q = rng.normal(size=(B, L, H, K)).astype(np.float32)
    k, v = rng.normal(size=(2, B, L, kv_heads, K)).astype(np.float32)
    allowed = np.array(
        [
            [
                [
                    rule(i, j, None if segments is None else segments[b], None if prefix is None else prefix[b])
                    for j in range(L)
                ]
                for i in range(L)
            ]
            for b in range(B)
        ]
    )
    ours = attend(q, k, v, Mask(segments, prefix), implementation)
    np.testing.assert_allclose(ours, numpy_attention(q, k, v, allowed), atol=2e-6)


@pytest.mark.parametrize('implementation', ['auto', 'blocks', 'xla'])
@pytest.mark.parametrize('mask', MASKS.values(), ids=MASKS)
def test_value_and_gradients_equal_the_reference(implementation, mask):
    rng = np.random.default_rng(2)
    q = rng.normal(size=(B, L, H, K)).astype(np.float32)
    k, v = rng.normal(size=(2, B, L, 2, K)).astype(np.float32)

    dy = rng.normal(size=q.shape).astype(np.float32)

    def value_and_gradients(attend):
        y, backward = jax.vjp(jax.jit(lambda q, k, v: attend(q, k, v, Mask(*mask))), q, k, v)
        return y, *backward(dy)

    ours = value_and_gradients(functools.partial(attend, implementation=implementation))
    for a, b in zip(ours, value_and_gradients(reference_attend), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_auto_is_the_blocks_on_a_cpu():
    if jax.default_backend() != 'cpu':
        pytest.skip('this machine has an accelerator')
    q = jnp.asarray(np.random.default_rng(0).normal(size=(1, L, H, K)), jnp.float32)
    auto, blocks = (jax.jit(f)(q, q, q, Mask()) for f in (attend, attend_in_blocks))
    np.testing.assert_array_equal(auto, blocks)


@pytest.mark.parametrize('platform', ['cpu', 'cuda', 'tpu'])
def test_auto_is_splash_on_a_tpu_where_it_applies(platform):
    def lowered(length):
        q = jax.ShapeDtypeStruct((1, length, 2, 128), jnp.float32)
        return jax.jit(attend).trace(q, q, q, Mask()).lower(lowering_platforms=(platform,)).as_text()

    assert ('tpu_custom_call' in lowered(256)) == (platform == 'tpu')
    assert 'tpu_custom_call' not in lowered(200)


@pytest.mark.skipif(jax.default_backend() != 'gpu', reason='needs a GPU')
def test_cudnn_does_not_attend_across_segments():
    rng = np.random.default_rng(0)
    q = jax.numpy.asarray(rng.normal(size=(B, 256, H, 64)), 'bfloat16')
    k, v = jax.numpy.asarray(rng.normal(size=(2, B, 256, 1, 64)), 'bfloat16')
    segments = np.repeat([[1] * 100 + [2] * 156], B, axis=0).astype(np.int32)
    packed, plain = (attend(q, k, v, Mask(segments), name) for name in ('cudnn', 'xla'))
    np.testing.assert_allclose(np.asarray(packed, np.float32), np.asarray(plain, np.float32), atol=0.03)


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('packed', [False, True])
def test_splash_attention_equals_the_plain_one(groups, packed):
    """The TPU's kernel, interpreted: values and gradients."""
    rng = np.random.default_rng(0)
    shapes = ((2, 256, 4, 128), (2, 256, groups, 128), (2, 256, groups, 128))
    q, k, v = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    segments = jnp.asarray(np.repeat([[1] * 100 + [2] * 156], 2, 0), jnp.int32)
    mask = Mask(segment_ids=segments if packed else None)

    def value_and_gradients(implementation):
        loss = lambda q, k, v: jnp.sum(jnp.sin(attend(q, k, v, mask, implementation)))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(q, k, v)

    (ours, ours_grads), (plain, plain_grads) = map(value_and_gradients, ('splash', 'xla'))
    np.testing.assert_allclose(ours, plain, rtol=1e-5)
    for a, b in zip(ours_grads, plain_grads, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


def test_splash_attention_says_what_it_is_for():
    x = jnp.zeros((1, 48, 2, 16))
    with pytest.raises(UserError, match='multiples of 128; here they are 48 and 16'):
        attend(x, x[:, :, :1], x[:, :, :1], Mask(), 'splash')


@pytest.mark.parametrize('dtype, tolerance', [('float32', 1e-6), ('bfloat16', 1e-2)])
@pytest.mark.parametrize('kv_heads', [1, 2])
def test_one_query_over_a_cache_on_a_gpu(dtype, tolerance, kv_heads):
    """A step of decoding: each row has a position of its own, and no kernel pads the query to a block."""
    rng = np.random.default_rng(3)
    q = jnp.asarray(rng.normal(size=(3, 1, H, K)), dtype)
    k, v = jnp.asarray(rng.normal(size=(2, 3, 37, kv_heads, K)), dtype)
    mask = Mask(query_positions=np.array([[0], [20], [36]], np.int32))
    ours = as_on_a_gpu(attend, q, k, v, mask)
    blocks = jax.jit(attend_in_blocks)(q, k, v, mask)
    np.testing.assert_array_equal(np.asarray(ours, np.float32), np.asarray(blocks, np.float32))
    np.testing.assert_allclose(np.asarray(ours, np.float32), reference_attend(q, k, v, mask), rtol=0, atol=tolerance)
