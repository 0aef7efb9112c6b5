"""Ways to merge the parameters of models that were fine-tuned from the same base.

Letters: M members, θ₀ the base, θ_m a member, τ_m = θ_m − θ₀ its task vector. All arithmetic is float32. A parameter
that the base lacks, such as a head, is averaged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import jax
import jax.numpy as jnp

from palm_jax.bounds import Above, AtLeast, AtMost, Below, Seed, checked
from palm_jax.parameters import leaves_by_path

Params = Any


class Merge(Protocol):
    """A way to merge."""

    def __call__(self, base: Params | None, members: Sequence[Params]) -> Params:
        """Return one tree of parameters.

        Args:
          base: parameters of the base, where `needs_base`; a member's parameter that it lacks is averaged.
          members: parameters of the members, all of one structure.
        """

    @property
    def needs_base(self) -> bool:
        """Whether the base is read."""


@dataclasses.dataclass(frozen=True)
class Soup:
    """The mean of the members (Wortsman et al., arXiv 2203.05482: uniform soup)."""

    needs_base = False

    def __call__(self, base: Params | None, members: Sequence[Params]) -> Params:
        """Return 1/M · Σ θ_m."""
        del base
        return jax.tree.map(_mean, *members)


@checked
@dataclasses.dataclass(frozen=True)
class WiSEFT:
    """Interpolation between the base and the mean of the members (Wortsman et al., arXiv 2109.01903).

    Attributes:
      alpha: weight of the members; 0 is the base, 1 their mean.
    """

    alpha: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    needs_base = True

    def __call__(self, base: Params | None, members: Sequence[Params]) -> Params:
        """Return (1 − α)·θ₀ + α·1/M · Σ θ_m."""
        return _of_leaves(base, members, lambda start, leaves: start + self.alpha * (_mean(*leaves) - start))


@checked
@dataclasses.dataclass(frozen=True)
class TIES:
    """Trim, elect sign and merge (Yadav et al., arXiv 2306.01708).

    Of each task vector the largest values of every array are kept; where the signs of the members disagree, that of the
    larger sum is elected; the values with the elected sign are averaged.

    Attributes:
      density: share of the values of an array that are kept.
      scale: factor λ of the merged task vector.
    """

    density: Annotated[float, Above(0), AtMost(1)] = 0.2
    scale: Annotated[float, AtLeast(0)] = 1.0
    needs_base = True

    def __call__(self, base: Params | None, members: Sequence[Params]) -> Params:
        """Return θ₀ + λ · the merged task vector."""

        def merge(start: jax.Array, leaves: Sequence[jax.Array]) -> jax.Array:
            tasks = jnp.stack([self._trimmed(leaf - start) for leaf in leaves])
            elected = jnp.where(tasks.sum(axis=0) >= 0, 1, -1)
            agrees = jnp.sign(tasks) == elected
            mean = (tasks * agrees).sum(axis=0) / jnp.maximum(agrees.sum(axis=0), 1)
            return start + self.scale * mean

        return _of_leaves(base, members, merge)

    def _trimmed(self, task: jax.Array) -> jax.Array:
        count = int(self.density * task.size)
        if not count:
            return jnp.zeros_like(task)
        _, largest = jax.lax.top_k(jnp.abs(task).ravel(), count)
        return task * jnp.zeros(task.size, task.dtype).at[largest].set(1).reshape(task.shape)


@checked
@dataclasses.dataclass(frozen=True)
class DARE:
    """Drop and rescale (Yu et al., arXiv 2311.03099): random values of each task vector are dropped, the mean is added.

    Attributes:
      drop_rate: probability p that a value is dropped; what stays is divided by 1 − p.
      seed: seed of the choices.
    """

    drop_rate: Annotated[float, AtLeast(0), Below(1)] = 0.9
    seed: Seed = 0
    needs_base = True

    def __call__(self, base: Params | None, members: Sequence[Params]) -> Params:
        """Return θ₀ + 1/M · Σ mask_m · τ_m / (1 − p)."""
        keys = iter(jax.random.split(jax.random.key(self.seed), len(members) * len(jax.tree.leaves(members[0]))))

        def merge(start: jax.Array, leaves: Sequence[jax.Array]) -> jax.Array:
            kept = [jax.random.bernoulli(next(keys), 1 - self.drop_rate, start.shape) for _ in leaves]
            tasks = [(leaf - start) * mask / (1 - self.drop_rate) for leaf, mask in zip(leaves, kept, strict=True)]
            return start + _mean(*tasks)

        return _of_leaves(base, members, merge)


def _mean(*leaves: jax.Array) -> jax.Array:
    return (sum(leaf.astype(jnp.float32) for leaf in leaves) / len(leaves)).astype(leaves[0].dtype)


def _of_leaves(base: Params, members: Sequence[Params], merge: Any) -> Params:
    """Apply `merge` to every parameter that the base has, in float32, and average the others."""
    starts, trees = leaves_by_path(base), [leaves_by_path(member) for member in members]

    def merged(path: str) -> jax.Array:
        leaves = [tree[path] for tree in trees]
        if path not in starts:
            return _mean(*leaves)
        wide = [leaf.astype(jnp.float32) for leaf in leaves]
        return merge(starts[path].astype(jnp.float32), wide).astype(leaves[0].dtype)

    return jax.tree.unflatten(jax.tree.structure(members[0]), [merged(path) for path in trees[0]])
