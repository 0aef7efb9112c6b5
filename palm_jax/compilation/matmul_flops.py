"""FLOPs of the matrix products of a step, counted in the traced model, to compare with the paper's formula."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.models.model import Model
from palm_jax.training.state import init_params, unbox


def matmul_flops(model: Model, length: int) -> float:
    """Return the FLOPs of a sequence: three times those of the matrix products of the forward pass, for both gradients.

    Attention counts in full, as in the formula; the embedding lookup does not count.
    """
    arch = dataclasses.replace(model.arch, remat='none', attention='xla', dtype='float32', unroll_layers=1)
    plain = model.clone(arch=arch, head=None)
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    params = unbox(jax.eval_shape(functools.partial(init_params, plain), jax.random.key(0)))
    traced = jax.make_jaxpr(lambda params, tokens: plain.apply({'params': params}, tokens))(params, tokens)
    return 3.0 * sum(_dot_flops(traced.jaxpr))


def _dot_flops(jaxpr: Any) -> Iterator[float]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'dot_general':
            (contracted, _), _ = equation.params['dimension_numbers']
            left = equation.invars[0].aval.shape
            result = equation.outvars[0].aval.shape
            yield 2.0 * np.prod(result, dtype=float) * np.prod([left[i] for i in contracted], dtype=float)
        if equation.primitive.name == 'cond':  # variants of one operation, the plain one last
            yield from _dot_flops(equation.params['branches'][-1].jaxpr)
            continue
        times = equation.params.get('length', 1) if equation.primitive.name == 'scan' else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, 'jaxpr', inner)
                if hasattr(inner, 'eqns'):
                    yield from (times * f for f in _dot_flops(inner))
