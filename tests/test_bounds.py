"""Bounds in annotations: what they refuse when a function is called or a dataclass is constructed."""

import dataclasses
import inspect
import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.bounds import Above, AtLeast, AtMost, Below, Rate, checked, describe, hold
from palm_jax.errors import UserError


@checked
@dataclasses.dataclass(frozen=True)
class Part:
    size: Annotated[int, AtLeast(1)] = 8
    norm: Annotated[float, Above(0)] | None = None
    unroll: Annotated[int, AtLeast(0)] | Literal['auto'] = 'auto'
    rate: Rate = 0.0


@checked
@dataclasses.dataclass(frozen=True)
class Narrower(Part):
    size: Annotated[int, AtLeast(2)] = 8


@checked
def share(value: Annotated[int | float, Above(0), AtMost(1)], name: str = '') -> float:
    return value


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: Part(size=0), 'test_bounds.Part.size is 0; it must be at least 1.'),
        (lambda: Part(0), 'Part.size is 0'),
        (lambda: dataclasses.replace(Part(), size=-1), 'Part.size is -1'),
        (lambda: Narrower(size=1), 'test_bounds.Narrower.size is 1; it must be at least 2.'),
        (lambda: Narrower(rate=1.0), 'Narrower.rate is 1.0; it must be at least 0 and below 1.'),
        (lambda: Part(norm=0), 'norm is 0; it must be above 0, or None.'),
        (lambda: Part(norm=math.nan), 'norm is nan; it must be a finite number, above 0, or None.'),
        (lambda: Part(unroll=-1), "unroll is -1; it must be at least 0, or 'auto'."),
        (lambda: share(1.5), 'test_bounds.share.value is 1.5; it must be above 0 and at most 1.'),
        (lambda: share(math.inf), 'must be a finite number, above 0 and at most 1.'),
        (lambda: share(np.float32(2)), 'share.value is 2.0'),
    ],
)
def test_a_value_outside_is_refused_with_its_name(call, message):
    with pytest.raises(UserError) as error:
        call()
    assert message in str(error.value)


def test_values_inside_are_taken_and_signatures_stay():
    assert Part(1, 0.5, 3, 0.999) == Part(size=1, norm=0.5, unroll=3, rate=0.999)
    assert Part(norm=None, unroll='auto').norm is None and share(1) == 1
    assert list(inspect.signature(Part).parameters) == ['size', 'norm', 'unroll', 'rate']
    with pytest.raises(TypeError, match='unexpected keyword'):
        Part(width=1)


def test_traced_values_are_not_compared():
    assert jax.jit(lambda x: share(x) * 2)(jnp.float32(3)) == 6


def test_bounds_hold_on_either_side_of_their_limit():
    for bound, inside, outside in ((AtLeast(1), 1, 0), (AtMost(1), 1, 2), (Above(0), 1, 0), (Below(2**31), 5, 2**31)):
        assert hold(inside, Annotated[int, bound]) and not hold(outside, Annotated[int, bound])
        assert not hold(math.nan, Annotated[float, bound]) and not hold(10**400, Annotated[int, Below(1)])
    assert describe(int | None) == '' and describe(Rate) == 'at least 0 and below 1'
