"""Attention kernels that know one device, on a mesh of several."""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


def map_over_mesh(
    kernel: Callable[..., jax.Array],
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    *rows: jax.Array | None,
) -> jax.Array:
    """Run a kernel on every device: sequences over the axes of `act_batch`, query heads over those of `act_heads`.

    Every device needs the key/value heads of its query heads: all of them share one, or they are split in the same way,
    repeated where the mesh splits query heads into more parts than there are key/value heads.

    Args:
      kernel: function of queries, keys, values and `rows`, which returns an array like the queries.
      q_BLHK: queries.
      k_BMGK: keys.
      v_BMGK: values.
      rows: arrays [B, L] or None.

    Returns:
      [B, L, H, K].
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not nn.get_logical_axis_rules() or math.prod(mesh.shape.values()) == 1:
        return kernel(q_BLHK, k_BMGK, v_BMGK, *rows)
    q_spec = nn.logical_to_mesh_axes(('act_batch', 'act_length', 'act_heads', None)) or PartitionSpec()
    batch, _, heads, *_ = (*q_spec, None, None, None)
    num_heads, num_groups, parts = q_BLHK.shape[2], k_BMGK.shape[2], _size(mesh, heads)
    if num_groups > 1 and num_groups % parts:
        k_BMGK, v_BMGK = (jnp.repeat(x, num_heads // num_groups, axis=2) for x in (k_BMGK, v_BMGK))
    kv_spec = PartitionSpec(batch, None, heads if k_BMGK.shape[2] > 1 else None)
    mapped = jax.shard_map(
        kernel,
        mesh=mesh,
        in_specs=(q_spec, kv_spec, kv_spec, *(PartitionSpec(batch) for _ in rows)),
        out_specs=q_spec,
        check_vma=False,
    )
    return mapped(q_BLHK, k_BMGK, v_BMGK, *rows)


def _size(mesh: jax.sharding.AbstractMesh, axes: str | tuple[str, ...] | None) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)
