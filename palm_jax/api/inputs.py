"""Inputs of the Python API: one text or many, checked before the model sees them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from palm_jax.characters import check_characters
from palm_jax.errors import UserError
from palm_jax.wording import counted

ROLES = ('system', 'developer', 'user', 'assistant', 'tool')


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


def checked_messages(messages: Any) -> list[dict[str, str]]:
    """Return a chat as {'role', 'content'} of each message; a single text is a message of the user.

    Raises:
      UserError: if it is neither, empty, or a message lacks its role or text.
    """
    given = [{'role': 'user', 'content': messages}] if isinstance(messages, str) else messages
    if isinstance(given, bytes | Mapping) or not isinstance(given, Iterable):
        raise UserError(f"The messages are {_shown(given)}; give a text, or a list of {{'role': ..., 'content': ...}}.")
    found = list(given)
    if not found:
        raise UserError('There is no message to reply to.')
    for number, message in enumerate(found, 1):
        where = f'Message {number}'
        if not isinstance(message, Mapping):
            raise UserError(f"{where} is {_shown(message)}; give {{'role': 'user', 'content': 'a text'}}.")
        for key in ('role', 'content'):
            if not isinstance(message.get(key), str):
                raise UserError(f'{where} has no text under {key!r}. Its keys: {", ".join(map(str, message))}.')
        if message['role'] not in ROLES:
            raise UserError(f'{where} has the role {message["role"]!r}. Known: {", ".join(ROLES)}.')
        check_characters(message['content'], where)
    return [{'role': message['role'], 'content': message['content']} for message in found]


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
