"""What `auto` means on each platform."""

import dataclasses

import pytest

from palm_jax.models.architecture import Architecture
from palm_jax.training.platform_choices import resolve

ARCH = Architecture(
    vocab_size=7, d_model=8, num_layers=12, num_heads=1, head_dim=4, unroll_layers='auto', fuse_projections='auto'
)


@pytest.mark.parametrize(
    'platform, num_layers, unroll_layers, fuse_projections',
    [('cpu', 12, 0, True), ('cpu', 13, 1, True), ('gpu', 32, 0, False), ('gpu', 33, 1, False), ('tpu', 1, 1, True)],
)
def test_auto_depends_on_the_platform_and_the_depth(platform, num_layers, unroll_layers, fuse_projections):
    found = resolve(dataclasses.replace(ARCH, num_layers=num_layers), platform)
    assert (found.unroll_layers, found.fuse_projections) == (unroll_layers, fuse_projections)


@pytest.mark.parametrize('platform', ['cpu', 'gpu', 'tpu'])
def test_what_is_set_stays(platform):
    given = dataclasses.replace(ARCH, unroll_layers=3, fuse_projections=False)
    assert resolve(given, platform) == given
