"""The chunked cross-entropy against the reference, in value, metrics and gradient (more in training/test_losses.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.models.kernels import cross_entropy
from palm_jax.models.kernels.cross_entropy import reference_softmax_cross_entropy, softmax_cross_entropy
from tests.support.platforms import as_on_a_gpu, lowered_for

B, L, D, V = 2, 19, 16, 67


@pytest.mark.parametrize('dtype, tolerance', [('float32', 1e-5), ('bfloat16', 2e-2)])
@pytest.mark.parametrize('chunk, skip', [(0, False), (8, False), (8, True), ('auto', False)])
def test_loss_sums_and_gradients_equal_the_reference(dtype, tolerance, chunk, skip):
    arrays = inputs(dtype)
    ours = jax.jit(value_and_gradients(softmax_cross_entropy, chunk, skip))(*arrays)
    check(ours, arrays, tolerance)


@pytest.mark.parametrize('dtype, tolerance', [('float32', 1e-5), ('bfloat16', 2e-2)])
@pytest.mark.parametrize('positions, skip', [(L, False), (7, False), (7, True)])
def test_the_blocks_of_a_gpu_equal_the_reference(monkeypatch, dtype, tolerance, positions, skip):
    monkeypatch.setattr(cross_entropy, 'memory_bytes', lambda: 16 * 4 * B * positions * V)
    arrays = inputs(dtype)
    check(as_on_a_gpu(value_and_gradients(softmax_cross_entropy, 'auto', skip), *arrays), arrays, tolerance)


def inputs(dtype):
    rng = np.random.default_rng(0)
    h, e = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((B, L, D), (V, D)))
    targets = jnp.asarray(rng.integers(0, V, (B, L)), jnp.int32)
    return h, e, targets, jnp.asarray(rng.integers(0, 3, (B, L)) / 2, jnp.float32)


def value_and_gradients(loss, *options):
    function = lambda h, e, targets, weights: loss(h, e, targets, weights, D**-0.5, 1e-2, *options)  # noqa: E731
    return jax.value_and_grad(function, argnums=(0, 1), has_aux=True)


def check(ours, arrays, tolerance):
    plain = jax.jit(value_and_gradients(reference_softmax_cross_entropy))(*arrays)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize(
    'shape, vocabulary, skip, expected',
    [
        ((8, 2048), 32_000, False, 2048),  # 2 GB of logits at once
        ((8, 2048), 256_000, False, 512),
        ((64, 2048), 256_000, False, 64),
        ((8, 2048), 32_000, True, 256),
        ((8, 2039), 256_000, False, 524),  # a prime: better a short last chunk than a chunk a position
        ((10**6, 8), 256_000, False, 1),
    ],
)
def test_a_chunk_of_a_gpu_is_sized_by_its_memory(monkeypatch, shape, vocabulary, skip, expected):
    monkeypatch.setattr(cross_entropy, 'memory_bytes', lambda: 64 << 30)
    assert cross_entropy._gpu_chunk_length((*shape, D), vocabulary, skip) == expected


def test_chunks_write_the_gradient_in_place():
    """On a GPU with several chunks nothing copies features or their gradient to put chunks together."""
    h, e, targets, weights = inputs('bfloat16')
    h, targets, weights = h[:, :16], targets[:, :16], weights[:, :16]
    compiled = lowered_for(
        'cuda', value_and_gradients(softmax_cross_entropy, 4, False), h, e, targets, weights
    ).compile()
    text = compiled.as_text()
    assert ' while(' in text and 'dynamic-update-slice' in text
    moved = [
        line
        for line in text.splitlines()
        if f'[{B},16,{D}]' in line and (' concatenate(' in line or ' transpose(' in line)
    ]
    assert not moved, moved
