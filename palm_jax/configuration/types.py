"""Does a gin value fit the parameter's annotation?"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from typing import Any, Literal, Union

_PLAIN = (bool, int, float, str, bytes, type(None), tuple, list, dict)


def hints_of(function: Any) -> dict[str, Any]:
    """Annotations of a function's or class's parameters; what cannot be evaluated is left out."""
    target = function.__init__ if inspect.isclass(function) else function
    try:
        hints = typing.get_type_hints(target)
        if inspect.isclass(function):
            hints = typing.get_type_hints(function) | hints
        return hints
    except (NameError, TypeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain Python value may be given where `hint` is asked for; what is unclear passes."""
    if hint is Any or isinstance(hint, typing.TypeVar | str) or not isinstance(value, _PLAIN):
        return True
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, bytes):
        return isinstance(value, hint)
    container = origin or hint
    if container in (tuple, list, collections.abc.Sequence):
        if not isinstance(value, tuple | list):
            return False
        if container is tuple and args and args[-1] is not Ellipsis:
            return len(value) == len(args) and all(map(fits, value, args))
        return all(fits(item, args[0]) for item in value) if args else True
    if container in (dict, collections.abc.Mapping):
        if not isinstance(value, dict):
            return False
        return all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items()) if args else True
    # A class, protocol or callable: no plain number, text or container will do, except None by Union.
    return value is not None and not isinstance(value, bool | int | float | str | bytes | list | tuple | dict)


def describe(hint: Any) -> str:
    """An annotation as a user reads it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return 'one of ' + ', '.join(map(repr, args))
    if origin in (Union, types.UnionType):
        return ' or '.join(describe(arg) for arg in args)
    if hint is type(None):
        return 'None'
    words = {int: 'a whole number', float: 'a number', str: 'a text in quotes', bool: 'True or False'}
    if hint in words:
        return words[hint]
    return getattr(hint, '__name__', str(hint)) if not args else str(hint).replace('collections.abc.', '')
