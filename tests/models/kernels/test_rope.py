"""Rotary positions: what defines them, and the variant of CPUs against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.models.kernels.rope import reference_rotate, rotate
from tests.support import numpy_palm


def test_rotation_is_relative():
    """⟨R_m q, R_n k⟩ depends on m − n alone, the property that defines RoPE."""
    q, k = np.random.default_rng(1).normal(size=(2, 1, 1, 1, 16)).astype(np.float32)

    def score(m, n):
        return np.sum(np.asarray(rotate(q, np.array([[m]]))) * np.asarray(rotate(k, np.array([[n]]))))

    np.testing.assert_allclose(score(5, 2), score(105, 102), rtol=1e-4)
    np.testing.assert_allclose(score(0, 0), np.sum(q * k), rtol=1e-5)
    assert abs(score(5, 2) - score(5, 3)) > 1e-3


@pytest.mark.parametrize('xpos', [0.0, 1 / 16])
def test_value_and_gradient_equal_the_reference_and_numpy(xpos):
    x, dy = np.random.default_rng(1).normal(size=(2, 2, 20, 3, 16)).astype(np.float32)
    positions = jnp.arange(20)[None]

    def value_and_gradient(rotate):
        y, backward = jax.vjp(jax.jit(lambda x: rotate(x, positions, 500.0, xpos)), x)
        return y, backward(dy)[0]

    ours, plain = value_and_gradient(rotate), value_and_gradient(reference_rotate)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    expected = numpy_palm.rope(np.asarray(x[1, :, 2], np.float64), 500.0 ** (-np.arange(0, 1, 2 / x.shape[-1])), xpos)
    np.testing.assert_allclose(ours[0][1, :, 2], expected, rtol=1e-4, atol=1e-5)
