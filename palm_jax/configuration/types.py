"""Types and bounds of gin values, from the annotations of parameters."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union

from palm_jax import bounds

_PLAIN = (bool, int, float, str, bytes, type(None), tuple, list, dict)


@functools.cache
def hints_of(function: Any) -> Mapping[str, Any]:
    """Return the annotations of a function's or class's parameters, with their bounds; empty if they have errors."""
    try:
        if dataclasses.is_dataclass(function):  # whose __init__ has the annotations of its bases, in their words
            return typing.get_type_hints(function, include_extras=True)
        if inspect.isclass(function):
            inherited = typing.get_type_hints(function, include_extras=True)
            return typing.get_type_hints(function.__init__, include_extras=True) | inherited
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain Python value has the type that an annotation asks for; unclear cases pass."""
    hint, _ = bounds.parts(hint)
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
    # A class, protocol or callable takes no plain number, text or container, and None only by a union.
    return value is not None and not isinstance(value, bool | int | float | str | bytes | list | tuple | dict)


def functions_in(hint: Any) -> Iterator[Any]:
    """Yield the annotations `Callable[[...], ...]` inside an annotation."""
    if typing.get_origin(hint) is collections.abc.Callable:
        yield hint
        return
    for part in typing.get_args(hint):
        yield from functions_in(part)


def is_meant_itself(function: Any, hint: Any) -> bool:
    """Return whether an annotation asks for functions with as many arguments as this one needs."""
    if not inspect.isfunction(function):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    needed = [p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]
    wanted = [typing.get_args(found)[0] for found in functions_in(hint)]
    return bool(needed) and any(isinstance(w, list) and len(w) == len(needed) for w in wanted)


def describe(hint: Any) -> str:
    """Return an annotation as users read it, without its bounds."""
    hint, _ = bounds.parts(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return 'one of ' + ', '.join(map(repr, args))
    if origin in (Union, types.UnionType):
        return ' or '.join(dict.fromkeys(map(describe, args)))
    if hint is type(None):
        return 'None'
    words = {int: 'a whole number', float: 'a number', str: 'a text in quotes', bool: 'True or False'}
    if hint in words:
        return words[hint]
    if origin is collections.abc.Callable:
        return 'a function'
    if origin in (tuple, list, collections.abc.Sequence) and args:
        items = [arg for arg in args if arg is not Ellipsis]
        if origin is tuple and Ellipsis not in args:
            return f'({", ".join(map(describe, items))})'
        return f'a list of {_plural(items[0])}'
    if origin in (dict, collections.abc.Mapping) and args:
        return f'a dict from {_plural(args[0])} to {_plural(args[1])}'
    return getattr(hint, '__name__', str(hint))


def _plural(hint: Any) -> str:
    hint, _ = bounds.parts(hint)
    words = {int: 'whole numbers', float: 'numbers', str: 'texts in quotes', Any: 'anything'}
    if typing.get_origin(hint) is None:
        return words.get(hint, describe(hint))
    return describe(hint).replace('a list', 'lists', 1).replace('a dict', 'dicts', 1).replace('a function', 'functions')
