"""What a field of a request may hold: texts, lists with limits, and values that change nothing.

Checks stop at the first mistake, however long the list is, and their messages say what is accepted.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import PydanticCustomError, core_schema

from palm_jax.errors import closest

_NO_TEXT = re.compile('[\x00\ud800-\udfff]')
_MAX_MESSAGE = 1000  # characters
_ONLY_NULL = 'this server does not support the field; leave it out'
_KINDS = {bool: 'a boolean', int: 'a number', float: 'a number', str: 'a text', list: 'a list', dict: 'an object'}


def wrong(message: str, field: str | None = None) -> PydanticCustomError:
    """Return the error of a field.

    Args:
      message: what is wrong and what is accepted.
      field: field of the checked object that the message is about; None if it is about the value itself.
    """
    shown = None if field is None else printable(field)
    return PydanticCustomError('wrong', '{message}', {'message': printable(message), 'field': shown})


def printable(text: str) -> str:
    """Return a text that can be sent as UTF-8, whatever the client wrote, and is no longer than messages are."""
    return text[:_MAX_MESSAGE].encode('utf-8', 'backslashreplace').decode()


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), 'null')


def _shown(value: Any) -> str:
    return _kind(value) if isinstance(value, list | dict) else json.dumps(value)[:40]


class Body(BaseModel):
    """JSON of a request.

    A field that is null is a field that was left out. Other unknown fields, and texts in place of numbers, are errors.
    """

    model_config = ConfigDict(extra='forbid', strict=True)
    null_values: ClassVar[dict[str, Any]] = {}  # fields to which null gives a value of its own

    @model_validator(mode='before')
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            raise wrong(f'must be a JSON object, not {_kind(values)}')
        given = {name: value for name, value in values.items() if value is not None}
        for name in given:
            if name not in cls.model_fields:
                raise wrong(f'this field is unknown.{closest(name[:60], cls.model_fields)}', name)
        return given | {name: value for name, value in cls.null_values.items() if values.get(name, 0) is None}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        """Describe that null is accepted wherever a field may be left out, and for fields of any other name."""
        described = handler(schema)
        fields = handler.resolve_ref_schema(described)
        for name, field in fields['properties'].items():
            if name not in fields.get('required', ()) or name in cls.null_values:
                fields['properties'][name] = {'anyOf': [field, {'type': 'null'}]}
        fields['additionalProperties'] = {'type': 'null'}
        return described


@dataclasses.dataclass(frozen=True)
class Checked:
    """Annotation of a field that a function checks and converts.

    Attributes:
      check: returns the value, or raises `wrong(...)`.
      schema: JSON schema of what it accepts.
    """

    check: Callable[[Any], Any]
    schema: dict[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        return self.schema


def neutral(*values: Any) -> Checked:
    """Accept the values of a field that change nothing; null always does, and where there are no others it is alone."""
    shown = ' or '.join(json.dumps(value) for value in values)
    refusal = f'this server supports only {shown} here; leave the field out' if values else _ONLY_NULL

    def check(value: Any) -> Any:
        if any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values):
            return value
        raise wrong(refusal)

    schema: dict[str, Any] = {'enum': list(values)} if values else {'not': {}}
    return Checked(check, schema | {'description': 'Accepted at the values that change nothing.'})


def ignored(kind: type) -> Checked:
    """Accept any value of a type: a hint that changes no answer."""

    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise wrong(f'must be {_KINDS[kind]}, not {_kind(value)}')
        return value

    names = {str: 'string', bool: 'boolean', int: 'integer', dict: 'object'}
    return Checked(check, {'type': names[kind], 'description': 'Accepted and ignored.'})


def text(value: Any) -> str:
    """Check that a value is a text: no NUL, and no half of a surrogate pair, which a JSON escape can hold."""
    if not isinstance(value, str):
        raise wrong(f'must be a text, not {_kind(value)}')
    if found := _NO_TEXT.search(value):
        name = 'NUL' if found[0] == '\0' else f'the lone surrogate U+{ord(found[0]):04X}'
        raise wrong(f'holds {name} at character {found.start() + 1:,}, which is not text')
    return value


def text_or_texts(at_most: int) -> Checked:
    """Accept a text, or a list of 1 to `at_most` texts."""

    def check(value: Any) -> str | list[str]:
        if isinstance(value, str):
            return text(value)
        return texts(value, f'a text or a list of 1 to {at_most:,} texts', at_most)

    item = {'type': 'string'}
    return Checked(check, {'anyOf': [item, {'type': 'array', 'items': item, 'minItems': 1, 'maxItems': at_most}]})


def texts(value: Any, expected: str, at_most: int) -> list[str]:
    """Check a list of texts; the messages name the first that is wrong."""
    check_list(value, expected, at_most)
    for number, item in enumerate(value, 1):
        try:
            text(item)
        except PydanticCustomError as error:
            raise wrong(f'item {number:,} {error.message()}; send {expected}') from None
    return value


def check_list(value: Any, expected: str, at_most: int) -> None:
    """Check that a value is a list of 1 to `at_most` items."""
    if not isinstance(value, list):
        raise wrong(f'must be {expected}, not {_kind(value)}')
    if not value:
        raise wrong(f'is an empty list; send {expected}')
    if len(value) > at_most:
        raise wrong(f'is a list of {len(value):,}; at most {at_most:,} are allowed')


def prompts(at_most: int) -> Checked:
    """Accept a text or a list of token ids, or a list of 1 to `at_most` of either."""
    expected = f'a text, a list of token ids, or a list of 1 to {at_most} of either'

    def check(value: Any) -> str | list[Any]:
        if isinstance(value, str):
            return text(value)
        if isinstance(value, list) and value and type(value[0]) is int:
            return token_ids(value, expected)
        check_list(value, expected, at_most)
        if isinstance(value[0], str):
            return texts(value, expected, at_most)
        for item in value:
            token_ids(item, expected)
        return value

    ids = {'type': 'array', 'items': {'type': 'integer', 'minimum': 0}}
    one = [{'type': 'string'}, {**ids, 'minItems': 1}]
    many = [{'type': 'array', 'items': i, 'minItems': 1, 'maxItems': at_most} for i in ({'type': 'string'}, ids)]
    return Checked(check, {'anyOf': one + many})


def token_ids(value: Any, expected: str) -> list[int]:
    """Check a list of token ids."""
    if not isinstance(value, list):
        raise wrong(f'holds {_kind(value)}; send {expected}')
    for number, item in enumerate(value, 1):
        if type(item) is not int or item < 0:
            shown = f'{item}'[:20] if type(item) is int else _kind(item)
            raise wrong(f'token {number:,} is {shown}; a token id is a whole number of at least 0')
    return value


def stops(at_most: int, max_characters: int) -> Checked:
    """Accept a stop string or a list of them, and return those that are not empty as a tuple."""
    expected = f'a text, or a list of at most {at_most} texts'

    def check(value: Any) -> tuple[str, ...]:
        given = [value] if isinstance(value, str) else value
        if given != []:
            texts(given, expected, at_most)
        if long := [stop for stop in given if len(stop) > max_characters]:
            raise wrong(f'a stop string has {len(long[0]):,} characters; at most {max_characters} are allowed')
        return tuple(filter(None, given))

    item = {'type': 'string', 'maxLength': max_characters}
    return Checked(check, {'anyOf': [item, {'type': 'array', 'items': item, 'maxItems': at_most}]})


def biases(at_most: int, largest: float) -> Checked:
    """Accept an object of biases by token id, at most `at_most` from −`largest` to `largest`; return them by number."""

    def check(value: Any) -> dict[int, float]:
        if not isinstance(value, dict):
            raise wrong(f'must be an object of biases by token id, not {_kind(value)}')
        if len(value) > at_most:
            raise wrong(f'has {len(value):,} tokens; at most {at_most} are allowed')
        found = {}
        for token, bias in value.items():
            if not (token.isascii() and token.isdigit() and len(token) < 10):
                raise wrong(f'the key {token[:20]!r} is not a token id, a whole number of at least 0')
            if type(bias) not in (int, float) or not -largest <= bias <= largest:
                raise wrong(f'the bias of token {token} must be a number from -{largest:g} to {largest:g}')
            if bias:
                found[int(token)] = float(bias)
        return found

    number = {'type': 'number', 'minimum': -largest, 'maximum': largest}
    names = {'pattern': '^[0-9]{1,9}$'}
    schema = {'type': 'object', 'additionalProperties': number, 'propertyNames': names, 'maxProperties': at_most}
    return Checked(check, schema)


_PARTS = {'text': 'text', 'input_text': 'text', 'output_text': 'text', 'refusal': 'refusal'}
_IGNORED_OF_PARTS = {'annotations', 'cache_control', 'prompt_cache_breakpoint', 'logprobs'}
MAX_PARTS = 1000


def content(value: Any) -> str:
    """Check the content of a message, a text or a list of text parts, and return it as one text."""
    if isinstance(value, str):
        return text(value)
    if value == []:
        return ''
    check_list(value, f'a text or a list of at most {MAX_PARTS:,} text parts', MAX_PARTS)
    return ''.join(_part(part, number) for number, part in enumerate(value, 1))


def _part(part: Any, number: int) -> str:
    expected = 'send {"type": "text", "text": ...}'
    if not isinstance(part, dict):
        raise wrong(f'part {number:,} is {_kind(part)}; {expected}')
    kind = part.get('type')
    field = _PARTS.get(kind) if isinstance(kind, str) else None
    if field is None:
        raise wrong(f'part {number:,} is of the type {_shown(kind)}; models read text alone: {expected}')
    unknown = [name for name, v in part.items() if v is not None and name not in {'type', field, *_IGNORED_OF_PARTS}]
    if unknown:
        raise wrong(f'part {number:,} has the unknown field {unknown[0][:40]!r}; {expected}')
    try:
        return text(part.get(field))
    except PydanticCustomError as error:
        raise wrong(f'part {number:,}: {field} {error.message()}') from None


def schema_of_content() -> dict[str, Any]:
    """Return the JSON schema of `content`."""
    part = {
        'type': 'object', 'required': ['type', 'text'],
        'properties': {'type': {'enum': ['text']}, 'text': {'type': 'string'}},
    }  # fmt: skip
    return {'anyOf': [{'type': 'string'}, {'type': 'array', 'items': part, 'maxItems': MAX_PARTS}]}


TEXT = Checked(text, {'type': 'string'})
CONTENT = Checked(content, schema_of_content())


def is_neutral_list(value: Any, choice: Any) -> bool:
    """Return whether a list of tools changes nothing: it is empty, or none of them may be chosen."""
    return isinstance(value, Sequence) and not isinstance(value, str) and (not value or choice == 'none')


def max_tokens(value: Any) -> int | None:
    """Check a maximum number of tokens; -1, which other servers take, is the same as null."""
    if type(value) is int and value >= 1:
        return value
    if type(value) is int and value == -1:
        return None
    raise wrong(f'must be a whole number of at least 1, not {_shown(value)}')


MAX_TOKENS = Checked(max_tokens, {'type': 'integer', 'minimum': -1, 'not': {'const': 0}})
