"""Every implementation of attention against NumPy, under every mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.models import attention
from palm_jax.models.attention import attend
from palm_jax.models.masks import Mask

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


def test_auto_is_the_blocks_on_a_cpu():
    if jax.default_backend() != 'cpu':
        pytest.skip('this machine has an accelerator')
    assert attention.fastest_implementation(np.float32) == 'blocks'


@pytest.mark.skipif(jax.default_backend() != 'gpu', reason='needs a GPU')
def test_cudnn_does_not_attend_across_segments():
    rng = np.random.default_rng(0)
    q = jax.numpy.asarray(rng.normal(size=(B, 256, H, 64)), 'bfloat16')
    k, v = jax.numpy.asarray(rng.normal(size=(2, B, 256, 1, 64)), 'bfloat16')
    segments = np.repeat([[1] * 100 + [2] * 156], B, axis=0).astype(np.int32)
    packed, plain = (attend(q, k, v, Mask(segments), name) for name in ('cudnn', 'xla'))
    np.testing.assert_allclose(np.asarray(packed, np.float32), np.asarray(plain, np.float32), atol=0.03)


def test_rotation_is_relative():
    """⟨R_m q, R_n k⟩ depends on m − n alone, the property that defines RoPE."""
    from palm_jax.models.rotary import rotate

    q, k = np.random.default_rng(1).normal(size=(2, 1, 1, 1, 16)).astype(np.float32)

    def score(m, n):
        return np.sum(np.asarray(rotate(q, np.array([[m]]))) * np.asarray(rotate(k, np.array([[n]]))))

    np.testing.assert_allclose(score(5, 2), score(105, 102), rtol=1e-4)
    np.testing.assert_allclose(score(0, 0), np.sum(q * k), rtol=1e-5)
    assert abs(score(5, 2) - score(5, 3)) > 1e-3


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
    with pytest.raises(UserError, match='lengths and head sizes that 128 divides; here they are 48 and 16'):
        attend(x, x[:, :, :1], x[:, :, :1], Mask(), 'splash')
