"""FLOPs, utilization and time of a run, by the formulas of the PaLM paper, appendix B."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from palm_jax.models.architecture import Architecture

FORMULA = 'MFU = tokens/s · (6·N + 12·layers·heads·head_dim·length) / peak FLOP/s  (N parameters, full attention)'

# Dense bfloat16 FLOP/s of one device, from the vendors' data sheets.
_PEAK_FLOPS = {
    'TPU v2': 22.5e12,  # per core; v2 and v3 have two devices per chip
    'TPU v3': 61.5e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5e': 197e12,
    'TPU v5': 459e12,
    'TPU v5p': 459e12,
    'TPU v6 lite': 918e12,
    'TPU v6e': 918e12,
    'NVIDIA A100-SXM4-40GB': 312e12,
    'NVIDIA A100-SXM4-80GB': 312e12,
    'NVIDIA H100 80GB HBM3': 989e12,
    'NVIDIA H200': 989e12,
    'NVIDIA L4': 121e12,
    'Tesla V100-SXM2-16GB': 125e12,
    'Tesla T4': 65e12,
}


def per_token(num_params: int, arch: Architecture, length: float) -> float:
    """Return 6·N + 12·L·H·Q·T: FLOPs of one token's forward and backward pass, without rematerialization."""
    return 6.0 * num_params + 12.0 * arch.num_layers * arch.num_heads * arch.head_dim * length


def share_of_full(num_trained: float, num_through: float, num_params: float) -> float:
    """Return the matmul FLOPs of a step that trains some parameters, as a fraction of one that trains all.

    A weight costs 2 FLOPs per token in the forward pass, 2 where the gradient flows through it, and 2 for its own
    gradient: (N + N_through + N_trained) / 3·N.

    Args:
      num_trained: number of trained parameters.
      num_through: number of parameters through which the gradient flows.
      num_params: number of all parameters.
    """
    return (num_params + num_through + num_trained) / (3 * num_params)


def peak(device_kind: str) -> float | None:
    """Return the peak FLOP/s of a device by JAX's name for it; None if it is not in the table."""
    return _PEAK_FLOPS.get(device_kind)


def utilization(tokens_per_second: float, flops_per_token: float, device_kind: str, num_devices: int) -> float | None:
    """Return the model FLOPs utilization in [0, 1]; None on a device of unknown peak."""
    peak_flops = peak(device_kind)
    return None if peak_flops is None else tokens_per_second * flops_per_token / (peak_flops * num_devices)


def measured_speed(size: int = 1024, dtype: DTypeLike = jnp.float32) -> float:
    """Return the FLOP/s of a square matmul on the default device, the fastest of five.

    Args:
      size: number of rows and of columns.
      dtype: dtype of the matrices, which are random: a GPU multiplies zeros and ones faster.
    """
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    fastest = float('inf')
    for _ in range(5):
        start = time.perf_counter()
        product(x).block_until_ready()
        fastest = min(fastest, time.perf_counter() - start)
    return 2.0 * size**3 / fastest


def duration(seconds: float) -> str:
    """Format seconds in the largest unit that fits: `45 s`, `12 min`, `3.5 h`, `16 days`, `4 years`."""
    for unit, length in (('years', 31_557_600), ('days', 86_400), ('h', 3600), ('min', 60)):
        if seconds >= 2 * length or (unit in ('h', 'min') and seconds >= length):
            return f'{seconds / length:.3g} {unit}'
    return f'{seconds:.2g} s'
