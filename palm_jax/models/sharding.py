"""Activations on the mesh, by the logical axis rules of a run."""

from __future__ import annotations

import flax.linen as nn
import jax


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pin the logical axes of an activation to the mesh; without axis rules return x unchanged.

    Args:
      x: activation.
      axes: one logical axis per dimension; None is replicated.
    """
    if not nn.get_logical_axis_rules():
        return x
    return nn.with_logical_constraint(x, axes, fallback=nn.spmd.RulesFallback.RAISE_ERROR)


def num_parts(axis: str) -> int:
    """Number of parts that the axis rules and the mesh split a logical axis into; 1 without rules."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return max((sizes.get(mesh_axis, 1) for name, mesh_axis in nn.get_logical_axis_rules() if name == axis), default=1)
