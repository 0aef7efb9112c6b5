"""Bounds of values, declared once in an annotation: `rank: Annotated[int, AtLeast(1)]`.

Numbers have limits, texts and collections can be required not to be empty, texts to be regular expressions. The items
of a sequence and the values of a mapping have bounds of their own: `Sequence[Annotated[int, AtLeast(0)]]`.

`checked` refuses what is outside of them when a function is called or a dataclass is constructed;
`palm_jax.configuration` reads the same annotations for its messages and its reference.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import numbers
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeGuard, TypeVar, Union

from palm_jax.errors import UserError

_T = TypeVar('_T', bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """A number is at least `limit`."""

    limit: float

    def holds(self, value: float) -> bool:
        """Return whether a value is inside the bound."""
        return value >= self.limit

    def __str__(self) -> str:
        return f'at least {self.limit}'


@dataclasses.dataclass(frozen=True)
class AtMost:
    """A number is at most `limit`."""

    limit: float

    def holds(self, value: float) -> bool:
        """Return whether a value is inside the bound."""
        return value <= self.limit

    def __str__(self) -> str:
        return f'at most {self.limit}'


@dataclasses.dataclass(frozen=True)
class Above:
    """A number is greater than `limit`."""

    limit: float

    def holds(self, value: float) -> bool:
        """Return whether a value is inside the bound."""
        return value > self.limit

    def __str__(self) -> str:
        return f'above {self.limit}'


@dataclasses.dataclass(frozen=True)
class Below:
    """A number is less than `limit`."""

    limit: float

    def holds(self, value: float) -> bool:
        """Return whether a value is inside the bound."""
        return value < self.limit

    def __str__(self) -> str:
        return f'below {self.limit}'


@dataclasses.dataclass(frozen=True)
class NotEmpty:
    """A text has more than blanks, or any characters if `may_be_blank`; a collection has items."""

    may_be_blank: bool = False

    def holds(self, value: str | Collection[Any]) -> bool:
        """Return whether a value is inside the bound."""
        return bool(value.strip()) if isinstance(value, str) and not self.may_be_blank else len(value) > 0

    def __str__(self) -> str:
        return 'not empty'


@dataclasses.dataclass(frozen=True)
class MayBeEmpty:
    """A text that has a meaning when it is empty, so that `--gin.NAME=` is not a forgotten value."""

    def holds(self, value: Any) -> bool:
        """Return True."""
        del value
        return True

    def __str__(self) -> str:
        return 'may be empty'


@dataclasses.dataclass(frozen=True)
class RegularExpression:
    """A text is a regular expression of Python's `re`.

    Attributes:
      num_groups: smallest number of its groups.
    """

    num_groups: int = 0

    def holds(self, value: str) -> bool:
        """Return whether a value is inside the bound."""
        try:
            return re.compile(value).groups >= self.num_groups
        except (re.error, OverflowError, RecursionError):
            return False

    def __str__(self) -> str:
        groups = f' with {self.num_groups} group in parentheses' if self.num_groups else ''
        return f'a regular expression{groups}'


Limit = AtLeast | AtMost | Above | Below
Bound = Limit | NotEmpty | MayBeEmpty | RegularExpression
Pattern = Annotated[str, RegularExpression()]
Seed = Annotated[int, AtLeast(0), Below(2**31)]  # which every random number generator accepts
Rate = Annotated[float, AtLeast(0), Below(1)]  # of dropout, label smoothing, a moving average
Count = Annotated[int, AtLeast(1)]
Weight = Annotated[float, AtLeast(0)]
Positive = Annotated[float, Above(0)]


def parts(hint: Any) -> tuple[Any, tuple[Bound, ...]]:
    """Return an annotation without `Annotated`, and its bounds."""
    if typing.get_origin(hint) is not Annotated:
        return hint, ()
    plain, *extras = typing.get_args(hint)
    return plain, tuple(extra for extra in extras if isinstance(extra, Bound))


def hold(value: Any, hint: Any) -> bool:
    """Return whether a value is inside the bounds of its annotation; bounds of another type of value do not count."""
    plain, bounds = parts(hint)
    if bounds and _is_number(value) and not isinstance(value, numbers.Integral) and not math.isfinite(value):
        return False
    if not all(bound.holds(value) for bound in bounds if _concerns(bound, value)):
        return False
    if typing.get_origin(plain) in (Union, types.UnionType) and describe(plain):
        return any(_fits_plainly(value, member) and hold(value, member) for member in typing.get_args(plain))
    items, of_items = _items(value, plain)
    return all(hold(item, of_items) for item in items)


def may_be_empty(hint: Any) -> bool:
    """Return whether an annotation says that an empty text has a meaning."""
    return any(isinstance(bound, MayBeEmpty) for bound in parts(hint)[1])


def _concerns(bound: Bound, value: Any) -> bool:
    if isinstance(bound, NotEmpty):
        return isinstance(value, str | Collection)
    return isinstance(value, str) if isinstance(bound, RegularExpression) else _is_number(value)


def _items(value: Any, plain: Any) -> tuple[Iterable[Any], Any]:
    """Return the items of a collection and their annotation: those of a sequence, or the values of a mapping."""
    args = typing.get_args(plain)
    if args and isinstance(value, Mapping) and typing.get_origin(plain) in (dict, Mapping):
        return value.values(), args[1]
    if args and isinstance(value, list | tuple) and typing.get_origin(plain) in (list, tuple, Sequence):
        return value, args[0]
    return (), None


def _fits_plainly(value: Any, hint: Any) -> bool:
    """Return whether a value can belong to a member of a union; types are not checked beyond that."""
    plain, _ = parts(hint)
    if typing.get_origin(plain) is Literal:
        return value in typing.get_args(plain)
    if plain in (None, type(None)):
        return value is None
    if plain is str or isinstance(value, str):
        return plain is str and isinstance(value, str)
    return _is_number(value) == (plain in (int, float))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def describe(hint: Any) -> str:
    """Return the bounds of an annotation as text, e.g. `at least 0 and below 1, or None`; empty without bounds."""
    plain, bounds = parts(hint)
    if typing.get_origin(plain) in (Union, types.UnionType) and not bounds:
        members = typing.get_args(plain)
        inner = [text for text in map(describe, members) if text]
        others = [repr(choice) for m in members if typing.get_origin(m) is Literal for choice in typing.get_args(m)]
        others += ['None' for member in members if member is type(None)]
        return ', or '.join([*inner, *others]) if inner else ''
    own, args, origin = ' and '.join(map(str, bounds)), typing.get_args(plain), typing.get_origin(plain)
    if origin in (list, tuple, Sequence, dict, Mapping) and args:
        of_items = describe(args[1] if origin in (dict, Mapping) else args[0])
        own = ', and '.join(filter(None, (own, f'each item {of_items}' if of_items else '')))
    return own


def violation(name: str, value: Any, hint: Any) -> str | None:
    """Return the message about a value outside the bounds of its annotation, None for one inside."""
    if hold(value, hint):
        return None
    finite = 'a finite number, ' if isinstance(value, float) and not math.isfinite(value) else ''
    shown = f'{value!r}' if isinstance(value, str) else f'{value}'
    wanted = describe(hint)
    if wanted.startswith('each item '):
        return f'{name} is {shown}; each item must be {wanted.removeprefix("each item ")}'
    return f'{name} is {shown}; it must be {finite}{wanted}'


def checked(target: _T) -> _T:
    """Check the arguments of a function or of a class against the bounds in their annotations.

    Of a dataclass it is the outer decorator:

        @checked
        @dataclasses.dataclass(frozen=True)
        class LoRA:
            rank: Annotated[int, AtLeast(1)] = 8

    Raises:
      UserError: when called with a value outside, e.g. "lora.LoRA.rank is 0; it must be at least 1."
    """
    if inspect.isclass(target):
        cls: Any = target
        cls.__init__ = _checked(cls.__init__, cls if dataclasses.is_dataclass(cls) else cls.__init__, target)
        return target
    return typing.cast(_T, _checked(target, target, target))


def _name(target: Callable[..., Any]) -> str:
    """Return the name that gin files bind: `lora.LoRA`, or of what its package exports, `objectives.MaskedLM`."""
    module, name = target.__module__, target.__qualname__
    package = module.rpartition('.')[0]
    exported = getattr(sys.modules.get(package), name, None)
    if name in getattr(sys.modules.get(package), '__all__', ()) and exported.__module__ == module:
        module = package
    return f'{module.rpartition(".")[2]}.{name}'


def _checked(function: Callable[..., Any], annotated: Any, target: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.cache
    def hints() -> dict[str, Any]:  # evaluated late: modules may name what is imported after them
        found = typing.get_type_hints(annotated, include_extras=True)
        return {parameter: hint for parameter, hint in found.items() if describe(hint)}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            arguments = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # raises Python's own message
        given = ((parameter, hint) for parameter, hint in hints().items() if parameter in arguments)
        found = [violation(f'{_name(target)}.{parameter}', arguments[parameter], hint) for parameter, hint in given]
        if messages := [f'{message}.' for message in found if message is not None]:
            raise UserError('\n'.join(messages))
        return function(*args, **kwargs)

    return call
