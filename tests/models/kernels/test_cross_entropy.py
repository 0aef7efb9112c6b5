"""The chunked cross-entropy against the reference, in value, metrics and gradient (more in training/test_losses.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.models.kernels.cross_entropy import reference_softmax_cross_entropy, softmax_cross_entropy

B, L, D, V = 2, 19, 16, 67


@pytest.mark.parametrize('dtype, tolerance', [('float32', 1e-5), ('bfloat16', 2e-2)])
@pytest.mark.parametrize('chunk, skip', [(0, False), (8, False), (8, True)])
def test_loss_sums_and_gradients_equal_the_reference(dtype, tolerance, chunk, skip):
    rng = np.random.default_rng(0)
    h, e = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((B, L, D), (V, D)))
    targets = jnp.asarray(rng.integers(0, V, (B, L)), jnp.int32)
    weights = jnp.asarray(rng.integers(0, 3, (B, L)) / 2, jnp.float32)

    def value_and_gradients(loss, *options):
        function = lambda h, e: loss(h, e, targets, weights, D**-0.5, 1e-2, *options)  # noqa: E731
        return jax.jit(jax.value_and_grad(function, argnums=(0, 1), has_aux=True))(h, e)

    ours = value_and_gradients(softmax_cross_entropy, chunk, skip)
    plain = value_and_gradients(reference_softmax_cross_entropy)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())
