"""FLOPs and MFU against the figures printed in the paper (appendix B)."""

import numpy as np
import pytest

from palm_jax.models.palm import Architecture
from palm_jax.training import flops


@pytest.mark.parametrize(
    'layers, width, heads, params, teraflops',
    [(32, 4096, 16, 8.63e9, 0.0550), (64, 8192, 32, 62.50e9, 0.388), (118, 18432, 48, 540.35e9, 3.28)],
    ids=['8B', '62B', '540B'],
)
def test_flops_per_token_of_the_paper(layers, width, heads, params, teraflops):
    arch = Architecture(vocab_size=256_000, num_layers=layers, d_model=width, num_heads=heads)
    np.testing.assert_allclose(flops.per_token(params, arch, 2048) / 1e12, teraflops, rtol=0.005)


def test_utilization_of_palm_540b():
    arch = Architecture(vocab_size=256_000, num_layers=118, d_model=18432, num_heads=48)
    per_token = flops.per_token(540.35e9, arch, 2048)
    np.testing.assert_allclose(flops.utilization(238.3e3, per_token, 'TPU v4', 6144), 0.462, atol=0.001)


def test_an_unknown_device_has_no_utilization():
    assert flops.utilization(1e6, 1e9, 'toaster', 1) is None


@pytest.mark.parametrize(
    'seconds, text',
    [
        (0.5, '0.5 s'),
        (59, '59 s'),
        (90, '1.5 min'),
        (5400, '1.5 h'),
        (86400 * 16, '16 days'),
        (4 * 31557600, '4 years'),
    ],
)
def test_durations(seconds, text):
    assert flops.duration(seconds) == text
