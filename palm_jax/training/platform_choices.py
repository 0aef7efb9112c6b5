"""What `auto` in an architecture means on each platform; the measurements are in BENCHMARKS.md.

Kernels choose their variants themselves, when a program is lowered (`models.kernels`). Here are the choices that change
how the model is traced.
"""

from __future__ import annotations

import dataclasses

from palm_jax.models.architecture import Architecture

# The largest number of layers that is unrolled. A loop copies the activations that it saves of every layer, and a
# layer's weights out of the stack. Elsewhere programs are compiled faster than that would pay.
_UNROLLED = {'cpu': 12, 'gpu': 32}
# Where outputs of one input are separate products: cutting a result apart is cheap, but the backward pass then joins
# the gradients of the parts by a copy.
_SEPARATE_PROJECTIONS = ('gpu',)


def resolve(arch: Architecture, platform: str) -> Architecture:
    """Return the architecture without `auto` in the fields that depend on the platform.

    Args:
      arch: architecture of a model.
      platform: `cpu`, `gpu` or `tpu`, as in `jax.default_backend()`.
    """
    unroll_layers, fuse_projections = arch.unroll_layers, arch.fuse_projections
    if unroll_layers == 'auto':
        unroll_layers = 0 if arch.num_layers <= _UNROLLED.get(platform, 0) else 1
    if fuse_projections == 'auto':
        fuse_projections = platform not in _SEPARATE_PROJECTIONS
    return dataclasses.replace(arch, unroll_layers=unroll_layers, fuse_projections=fuse_projections)
