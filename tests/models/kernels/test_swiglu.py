"""The MLP's gate against PyTorch in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from palm_jax.models.kernels.swiglu import reference_swiglu, swiglu


@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_the_gate_and_its_gradient_are_pytorchs_also_far_out(dtype, tolerance):
    rng = np.random.default_rng(0)
    gate = jnp.asarray(np.concatenate([rng.normal(size=64) * 3, [0, -1000, -100, -89, -20, 20, 89, 100, 1000]]), dtype)
    up, dh = (jnp.asarray(rng.normal(size=gate.shape), dtype) for _ in range(2))
    h, backward = jax.vjp(jax.jit(swiglu), gate, up)

    gate64, up64 = (torch.tensor(np.asarray(x, np.float64), requires_grad=True) for x in (gate, up))
    expected = torch.nn.functional.silu(gate64) * up64
    expected.backward(torch.tensor(np.asarray(dh, np.float64)))
    for ours, theirs in zip((h, *backward(dh)), (expected.detach(), gate64.grad, up64.grad), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs.numpy(), rtol=tolerance, atol=1e-7)


def test_the_gate_and_its_gradient_are_those_of_the_reference():
    gate, up, dh = np.random.default_rng(1).normal(size=(3, 7, 33)).astype(np.float32) * 3
    (ours, backward), (plain, plain_backward) = (jax.vjp(f, gate, up) for f in (swiglu, reference_swiglu))
    for a, b in zip((ours, *backward(dh)), (plain, *plain_backward(dh)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
