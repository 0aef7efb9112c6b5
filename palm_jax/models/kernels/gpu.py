"""What the variants for GPUs share."""

from __future__ import annotations

from collections.abc import Callable

import jax

_ASSUMED_BYTES = 64 << 30  # memory of a GPU that is not present when its program is lowered


def on_gpus(variant: Callable[..., jax.Array]) -> dict[str, Callable[..., jax.Array]]:
    """Return arguments of `platform_dependent` that use a variant on both makes of GPU."""
    return {'cuda': variant, 'rocm': variant}


def memory_bytes() -> int:
    """Return the bytes of device memory that a program for a GPU may use; 64 GiB where no GPU is present."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform == 'gpu' else None
    return (stats or {}).get('bytes_limit', _ASSUMED_BYTES)
