"""Activations and weights on the mesh, by the logical axis rules of a run."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax

Axes = tuple[str | None, ...]


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pin the logical axes of an activation to the mesh; without axis rules return x unchanged.

    Args:
      x: activation.
      axes: one logical axis per dimension; None is replicated.
    """
    if not nn.get_logical_axis_rules():
        return x
    return nn.with_logical_constraint(x, axes, fallback=nn.spmd.RulesFallback.RAISE_ERROR)


def gather(weight: jax.Array, *axes: str | None, axis: str = 'embed') -> jax.Array:
    """Gather a weight along one logical axis, and scatter its gradient along it.

    The gradient of a constraint is the same constraint, by which devices would add up and hold the gradient of the
    whole weight; here each receives the sum of its own part.

    Args:
      weight: weight, or its cast to the compute dtype.
      axes: one logical axis per dimension; None is replicated.
      axis: logical axis to gather.
    """
    return _gather(axes, axis, weight) if axis in axes and num_parts(axis) > 1 else weight


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(axes: Axes, axis: str, weight: jax.Array) -> jax.Array:
    return constrain(weight, *(None if name == axis else name for name in axes))


def _gather_forward(axes: Axes, axis: str, weight: jax.Array) -> tuple[jax.Array, None]:
    return _gather(axes, axis, weight), None


def _gather_backward(axes: Axes, axis: str, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (constrain(gradient, *axes),)


_gather.defvjp(_gather_forward, _gather_backward)


def num_parts(axis: str) -> int:
    """Number of parts that the axis rules and the mesh split a logical axis into; 1 without rules."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return max((sizes.get(mesh_axis, 1) for name, mesh_axis in nn.get_logical_axis_rules() if name == axis), default=1)
