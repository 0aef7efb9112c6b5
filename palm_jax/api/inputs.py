"""Inputs of the Python API: one text or many, checked before the model sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from palm_jax.errors import UserError
from palm_jax.wording import counted


def checked_inputs(inputs: Any) -> list[Any]:
    """Return inputs as a list; a single text, or a single dict of columns, is a list of one.

    Args:
      inputs: a text, a dict, or anything that can be iterated over for texts, dicts and lists.

    Raises:
      UserError: if it is neither, or holds something else: None, a number, bytes.
    """
    if isinstance(inputs, str | Mapping):
        inputs = [inputs]
    if isinstance(inputs, bytes) or not isinstance(inputs, Iterable):
        raise UserError(f'The inputs are {_shown(inputs)}; give a text or a list of texts.')
    found = list(inputs)
    for number, given in enumerate(found):
        _check(given, f'Input {number}')
    return found


def in_pairs(texts: list[Any], second_texts: list[Any]) -> list[tuple[Any, Any]]:
    """Return pairs of first and second texts.

    Raises:
      UserError: if there are not as many of both.
    """
    if len(texts) != len(second_texts):
        raise UserError(f'There are {counted(len(texts), "text")}, but {counted(len(second_texts), "second text")}.')
    return list(zip(texts, second_texts, strict=True))


def _check(given: Any, name: str) -> None:
    if isinstance(given, list | tuple):
        for number, part in enumerate(given):
            _check(part, f'{name}, part {number},')
    elif not isinstance(given, str | Mapping):
        raise UserError(f'{name} is {_shown(given)}, not a text. Leave it out, or make a text of it: str(...).')


def _shown(value: Any) -> str:
    return repr(value) if value is None else f'{value!r} (a {type(value).__name__})'
