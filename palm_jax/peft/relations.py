"""Vectors of relations beside a model, for losses that need them (TransE)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import flax.linen as nn
import jax

from palm_jax.bounds import AtLeast, checked
from palm_jax.models.architecture import Architecture
from palm_jax.models.layers import create_param
from palm_jax.models.palm import PaLM
from palm_jax.peft.method import Method


@checked
@dataclasses.dataclass(frozen=True)
class RelationVectors(Method):
    """A table of vectors at relations/embedding, [R, D], which the model itself does not read.

    It adds to what a run trains and does not replace it: a run without other methods trains everything.

    Attributes:
      count: number R of vectors.
    """

    count: Annotated[int, AtLeast(1)] = 256
    name: str = dataclasses.field(default='relations', init=False)

    @property
    def adapts(self):
        """False: the vectors are trained beside whatever else is."""
        return False

    def intercept(self, next_fun, args, kwargs, context):
        if isinstance(context.module, PaLM) and context.method_name == 'transform':
            _Vectors(context.module.arch, self.count, name=self.name)()
        return next_fun(*args, **kwargs)

    def merge(self, kernels, params):
        """Return the kernels as they are: without the vectors the model computes the same."""
        del params
        return kernels


class _Vectors(nn.Module):
    """The table, uniform in ±6/√D as in the paper of TransE."""

    arch: Architecture
    count: int

    @nn.compact
    def __call__(self) -> jax.Array:
        bound = 6 * self.arch.d_model**-0.5

        def init(key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        return create_param(self, 'embedding', init, (self.count, self.arch.d_model), ('classes', 'embed'), 'float32')


def with_relations(
    methods: Sequence[Method], count: Annotated[int, AtLeast(1)] = 256, weight: Annotated[float, AtLeast(0)] = 1.0
) -> tuple[Method, ...]:
    """Return methods with the vectors of relations; the methods alone if the loss that reads them has a weight of 0.

    Args:
      methods: methods of the run.
      count: number of vectors, at least that of the relations.
      weight: weight of the loss that reads them.
    """
    return (*methods, RelationVectors(count)) if weight else tuple(methods)
