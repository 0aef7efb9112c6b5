"""Bounds in annotations: what they refuse when a function is called or a dataclass is constructed."""

import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.bounds import (
    Above,
    AtLeast,
    AtMost,
    Below,
    NotEmpty,
    Pattern,
    Rate,
    RegularExpression,
    checked,
    describe,
    hold,
)
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


@checked
class Shelf:
    def __init__(
        self,
        name: Annotated[str, NotEmpty()] | None = None,
        pattern: Pattern = '.*',
        word: Annotated[str, RegularExpression(num_groups=1)] = '(.)',
        counts: Annotated[Sequence[Annotated[int, AtLeast(0)]], NotEmpty()] = (1,),
        weights: Mapping[str, Annotated[float, AtLeast(0)]] | None = None,
        patterns: Sequence[Pattern] | Literal['all'] = 'all',
    ):
        self.name = name


@pytest.mark.parametrize(
    'arguments, message',
    [
        ({'name': ' '}, "test_bounds.Shelf.name is ' '; it must be not empty, or None."),
        ({'pattern': '['}, "Shelf.pattern is '['; it must be a regular expression."),
        ({'pattern': 'a{9999999999999999999}'}, 'it must be a regular expression.'),
        ({'word': '.'}, "Shelf.word is '.'; it must be a regular expression with 1 group in parentheses."),
        ({'counts': ()}, 'Shelf.counts is (); it must be not empty, and each item at least 0.'),
        ({'counts': [1, -1]}, 'Shelf.counts is [1, -1]; it must be not empty, and each item at least 0.'),
        ({'weights': {'a': -1.0}}, "Shelf.weights is {'a': -1.0}; each item must be at least 0, or None."),
        ({'weights': {'a': math.nan}}, 'each item must be at least 0, or None.'),
        ({'patterns': ['.', '(']}, "Shelf.patterns is ['.', '(']; each item must be a regular expression, or 'all'."),
    ],
)
def test_texts_and_collections_have_bounds(arguments, message):
    with pytest.raises(UserError) as error:
        Shelf(**arguments)
    assert message in str(error.value)


def test_texts_and_collections_inside_are_taken():
    assert Shelf('a', 'b+', '(x)y', [0], {'a': 0.0}, ['.']).name == 'a'
    assert Shelf(None, weights=None, patterns='all').name is None
