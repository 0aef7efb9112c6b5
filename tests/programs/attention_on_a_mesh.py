"""Kernels that know one device give on eight what the reference gives: python -m tests.programs.attention_on_a_mesh."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from palm_jax.models.kernels.attention import attend, reference_attend
from palm_jax.models.masks import Mask

RULES = (('act_batch', 'data'), ('act_length', None), ('act_heads', 'model'))


def value_and_gradients(function, q, k, v, mask):
    loss = lambda q, k, v: jnp.sum(jnp.sin(function(q, k, v, mask)))  # noqa: E731
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(q, k, v)


def compare(kernel, kv_heads, head_dim):
    """Queries are split into four parts: more than, as many as, and fewer than there are key/value heads."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(4, 128, n, head_dim)).astype(np.float32) for n in (8, kv_heads, kv_heads))
    mask = Mask(np.repeat([[1] * 50 + [2] * 78], 4, 0).astype(np.int32))
    expected, expected_gradients = value_and_gradients(reference_attend, q, k, v, mask)
    mesh = jax.make_mesh((2, 4), ('data', 'model'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        q = jax.device_put(q, NamedSharding(mesh, PartitionSpec('data', None, 'model')))
        found, gradients = value_and_gradients(lambda *inputs: attend(*inputs, kernel), q, k, v, mask)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for a, b in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


def main():
    assert jax.device_count() == 8
    for kv_heads in (1, 2, 4, 8):
        compare('intervals', kv_heads, 16)
    compare('splash', 2, 128)
    print('equal')


if __name__ == '__main__':
    main()
