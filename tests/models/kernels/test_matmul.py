"""Products in every orientation against NumPy, also where CPUs have no kernel for a layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.models.kernels.matmul import (
    matmul,
    product,
    reference_product,
    reference_transposed_product,
    transposed_product,
)
from tests.support.platforms import as_on_a_gpu, lowered_for

DTYPES = (jnp.float32, jnp.bfloat16)


def operands(dtype, *shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def check(result, expected):
    assert result.dtype == jnp.float32  # accumulated in float32 whatever the operands
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def wide(*arrays):
    return [np.asarray(x, np.float64) for x in arrays]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('size', [(1, 3, 5), (64, 32, 48), (64, 64, 8), (64, 8, 64)])
def test_products_are_numpys(dtype, size):
    X, D, F = size
    x, y, w, v, z = operands(dtype, (2, X, D), (2, X, F), (D, F), (2, D, F), (2, F, D))
    x64, y64, w64, v64, z64 = wide(x, y, w, v, z)
    check(jax.jit(product)(x, w), x64 @ w64)
    check(jax.jit(lambda x, w: product(x, w, contract=1))(x, w.T), x64 @ w64)
    check(jax.jit(lambda x, v: product(x, v, batched=True))(x, v), x64 @ v64)
    check(jax.jit(lambda x, z: product(x, z, contract=1, batched=True))(x, z), x64 @ z64.swapaxes(1, 2))
    check(jax.jit(transposed_product)(x, y), np.einsum('bxd,bxf->df', x64, y64))
    check(jax.jit(lambda x, y: transposed_product(x, y, batched=True))(x, y), np.einsum('bxd,bxf->bdf', x64, y64))


@pytest.mark.parametrize('dtype', DTYPES)
def test_a_result_may_be_transposed_and_rounded_in_the_same_program(dtype):
    x, y = operands(dtype, (64, 32), (64, 48))
    result = jax.jit(lambda x, y: transposed_product(x, y).T.astype(dtype))(x, y)
    x64, y64 = wide(x, y)
    np.testing.assert_allclose(np.asarray(result, np.float64), y64.T @ x64, rtol=1e-2, atol=1e-2)


def test_the_gradient_is_that_of_the_plain_product():
    x, w, dy = operands(jnp.float32, (2, 5, 8), (8, 6), (2, 5, 6))
    ours = jax.grad(lambda x, w: (matmul(x, w) * dy).sum(), (0, 1))(x, w)
    plain = jax.grad(lambda x, w: ((x @ w) * dy).sum(), (0, 1))(x, w)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('batched', [False, True])
def test_the_variants_of_the_cpu_equal_the_plain_products(dtype, batched):
    x, y, w = operands(dtype, (2, 64, 32), (2, 64, 48), (2, 32, 48) if batched else (32, 48))
    np.testing.assert_allclose(
        jax.jit(lambda x, w: product(x, w, batched=batched))(x, w), reference_product(x, w, batched=batched), rtol=1e-5
    )
    ours = jax.jit(lambda x, y: transposed_product(x, y, batched=batched))(x, y)
    np.testing.assert_allclose(ours, reference_transposed_product(x, y, batched=batched), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('platform', ['cpu', 'cuda', 'tpu'])
def test_only_a_cpu_transposes_in_memory(platform):
    x, y = operands(jnp.bfloat16, (64, 32), (64, 48))
    lowered = jax.jit(transposed_product).trace(x, y).lower(lowering_platforms=(platform,)).as_text()
    assert ('LayoutConstraint' in lowered) == (platform == 'cpu')


def value_and_gradients(x, w, dy):
    y, backward = jax.vjp(matmul, x, w)
    return y, *backward(dy)


@pytest.mark.parametrize('dtype', DTYPES)
def test_the_variant_of_gpus_has_the_same_value_and_gradient(dtype):
    arrays = operands(dtype, (2, 64, 32), (32, 48), (2, 64, 48))
    ours = as_on_a_gpu(value_and_gradients, *arrays)
    x, w, dy = wide(*arrays)
    for result, exact in zip(ours, (x @ w, dy @ w.T, np.einsum('bxd,bxf->df', x, dy)), strict=True):
        assert result.dtype == dtype
        tolerance = 1e-5 if dtype == jnp.float32 else 2**-8  # rounded once
        np.testing.assert_allclose(np.asarray(result, np.float64), exact, rtol=tolerance, atol=1e-4)


@pytest.mark.parametrize('platform, num_direct', [('cpu', 0), ('cuda', 3), ('rocm', 3), ('tpu', 2)])
def test_accelerators_write_half_precision_directly(platform, num_direct):
    """No result has to be converted, but for the gradient of the matrix on a TPU, which devices add in float32."""
    lowered = lowered_for(platform, value_and_gradients, *operands(jnp.bfloat16, (2, 64, 32), (32, 48), (2, 64, 48)))
    results = [line.rpartition('->')[2] for line in lowered.as_text().splitlines() if 'dot_general' in line]
    assert len(results) == 3
    assert sum('bf16' in result for result in results) == num_direct, results


@pytest.mark.parametrize('platform', ['cpu', 'cuda'])
def test_logits_stay_float32(platform):
    lowered = lowered_for(platform, product, *operands(jnp.bfloat16, (64, 32), (32, 48))).as_text()
    assert 'tensor<64x48xf32>' in lowered and 'tensor<64x48xbf16>' not in lowered
