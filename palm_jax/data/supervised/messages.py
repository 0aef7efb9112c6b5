"""Messages of chats, in the layouts of OpenAI, ShareGPT and others, as turns."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from palm_jax.characters import check_characters
from palm_jax.data.readers import json_rows
from palm_jax.data.readers.columns import kind_of
from palm_jax.data.supervised.turns import Turn
from palm_jax.errors import UserError, closest

_LOGGER = logging.getLogger(__name__)

COLUMNS = ('messages', 'conversations', 'conversation', 'dialogue', 'dialog')
_SYSTEM_COLUMNS = ('system', 'system_prompt')
_REPLIES = ('assistant', 'model', 'bot', 'gpt', 'chatgpt', 'ai')
_SYSTEM = ('system', 'developer')
_TOOLS = ('tool', 'function', 'observation')
_READ = ('user', 'human', 'prompter', *_SYSTEM, *_TOOLS)
_TEXT_KEYS = ('content', 'message', 'text', 'value')
_ROLE_KEYS = ('role', 'from', 'speaker')
_TEXT_PARTS = ('text', 'input_text', 'output_text')
_CALLS = ('tool_calls', 'function_call')
_NOT_READ = ('reasoning_content', 'reasoning', 'thinking', 'tools', 'functions')  # beside the text
_IS_LEARNED = ('weight', 'train', 'training', 'trainable', 'loss')  # of OpenAI, Mistral, Axolotl, ms-swift
_UNCLEAR = ('mask', 'masked', 'loss_mask', 'train_detail', 'training_detail')
# Further names by which a value that is true or a number may say the same.
_MAY_SAY_YES = re.compile(r'(?:.*_)?(?:weights?|train\w*|learn\w*|loss)(?:_.*)?', re.IGNORECASE)
_MAY_SAY_NO = re.compile(
    r'(?:.*_)?(?:mask\w*|ignored?|skip|skipped|excluded?|rejected|deleted)(?:_.*)?'
    r'|(?:.*_)?(?:no|not|dont|never|without)_(?:.*_)?(?:train\w*|learn\w*|loss|weight)(?:_.*)?',
    re.IGNORECASE,
)
_TRUTHS = {'true': True, 'yes': True, 'false': False, 'no': False}
_IS_GOOD = ('label', 'kto_tag')  # of KTO: false marks an answer not to be given
_SKIP = 'Leave such transcripts out: --gin.BAD_ROWS=bad.txt'


def find(columns: Mapping[str, Any]) -> Any:
    """Return the messages in the columns of a row: a list, or its JSON; None if there are none.

    A system message in a column of its own, `system` or `system_prompt`, comes first.
    """
    name = next((name for name in COLUMNS if name in columns), None)
    if name is None:
        return None
    messages = from_json(columns[name])
    system = next((columns[key] for key in _SYSTEM_COLUMNS if isinstance(columns.get(key), str)), '')
    if isinstance(messages, list) and system.strip():
        return [{'role': 'system', 'content': system}, *messages]
    return messages


def check_row(columns: Mapping[str, Any], location: str) -> None:
    """Raise UserError if a row says of the whole transcript that it is not to be learned, or not as much as others."""
    _warn_of(columns)
    weight = columns.get('weight')
    if weight not in (None, '') and _plain(weight) != 1:
        raise UserError(f'{location}: the `weight` of the transcript is {json.dumps(weight)}; it must be 1. {_SKIP}')
    no = next((key for key, value in columns.items() if _says_no(key, value)), None)
    if no is not None:
        what = json.dumps(columns[no])
        raise UserError(
            f'{location}: `{no}` is {what}, which may say that the transcript is not to be learned. {_SKIP}'
        )
    bad = next((key for key in _IS_GOOD if _plain(columns.get(key)) is False), None)
    if bad is not None:
        raise UserError(f'{location}: `{bad}` is false, so the reply is not to be learned. {_SKIP}')


def _warn_of(fields: Mapping[str, Any]) -> None:
    """Say which parts of a transcript or a message are left out."""
    for name in _NOT_READ:
        if fields.get(name):
            _warn_not_read(name)


@functools.cache
def _warn_not_read(name: str) -> None:
    _LOGGER.warning('`%s` of transcripts is not read: the model learns their texts alone', name)


def from_json(value: Any) -> Any:
    """Return a list that a cell writes as JSON; other values unchanged."""
    if isinstance(value, str) and value.lstrip().startswith('['):
        try:
            return json_rows.parse(value, 'messages')
        except UserError:
            return value
    return value


def transcript(messages: Any, location: str) -> tuple[Turn, ...]:
    """Return the turns of a transcript to learn from.

    Replies are the messages of the assistant, or every second message if none has a role. A reply that is marked as not
    to be learned, such as by `weight: 0`, is read only.

    Args:
      messages: list of messages.
      location: file and line.

    Raises:
      UserError: if they are not messages with texts, a role is unknown, something in them cannot be learned here, or
        there is no reply to learn.
    """
    if not isinstance(messages, list) or not messages:
        raise UserError(f'{location}: `messages` is not a list of messages.')
    roles = [_role(message, f'{location}, message {number}') for number, message in enumerate(messages, 1)]
    turns = []
    for number, (message, role) in enumerate(zip(messages, roles, strict=True), 1):
        if isinstance(message, Mapping):
            _warn_of(message)
        where = f'{location}, message {number}'
        if role is None and any(other is not None for other in roles):
            raise UserError(f'{where}: the message has no role, but others have one.')
        text = _text(message, where)
        if role in _SYSTEM and not text.strip():
            continue
        if not text.strip():
            raise UserError(f'{where}: the message is empty, so there is nothing to learn from it. {_SKIP}')
        is_reply = number % 2 == 0 if role is None else role in _REPLIES
        turns.append(Turn(text, is_reply and _is_learned(message, where), _author(role, is_reply)))
    if not any(turn.learned for turn in turns):
        raise UserError(
            f'{location}: no message is a reply to be learned; replies have the role {" or ".join(_REPLIES)}, and no '
            '`weight: 0`.'
        )
    return tuple(turns)


def history(messages: Any) -> tuple[Turn, ...]:
    """Return the turns of the messages so far, of which the newest is to be answered.

    Args:
      messages: a message or a list of them, each a text or an object.

    Raises:
      UserError: if they are not messages with texts.
    """
    if isinstance(messages, str | Mapping):
        messages = [messages]
    if not isinstance(messages, Sequence) or not messages:
        raise UserError('A dialogue needs a message, or `messages`: a list of all messages, the newest last.')
    turns = []
    for number, message in enumerate(messages, 1):
        text = _text(message, f'message {number}')
        if text.strip():
            role = _role(message, f'message {number}')
            turns.append(Turn(text, False, _author(role, (len(messages) - number) % 2 == 1)))
        elif _role(message, f'message {number}') not in _SYSTEM:
            raise UserError(f'message {number}: the message is empty.')
    if not turns:
        raise UserError('The dialogue has no message that is not empty.')
    return tuple(turns)


def _author(role: str | None, is_reply: bool) -> str:
    """Return the role of a message as chat templates name it."""
    if role is None or role in _REPLIES:
        return 'assistant' if role is not None or is_reply else 'user'
    return 'system' if role in _SYSTEM else 'tool' if role in _TOOLS else 'user'


def _role(message: Any, location: str) -> str | None:
    found = next((message[key] for key in _ROLE_KEYS if key in message), None) if isinstance(message, Mapping) else None
    if found is None:
        return None
    role = found.lower() if isinstance(found, str) else found
    if role in _CALLS:
        raise UserError(f'{location}: calls of tools ({role}) cannot be learned here. {_SKIP}')
    known = (*_REPLIES, *_READ)
    if role not in known:
        raise UserError(
            f'{location}: the role {found!r} is unknown.{closest(str(found), known)} Known: {", ".join(known)}.'
        )
    return role


def _text(message: Any, location: str) -> str:
    """Return the text of a message: a text, or the text parts of a list, joined."""
    text = message
    if isinstance(message, Mapping):
        calls = next((key for key in _CALLS if message.get(key)), None)
        if calls is not None:
            raise UserError(f'{location}: calls of tools (`{calls}`) cannot be learned here. {_SKIP}')
        keys = [key for key in _TEXT_KEYS if key in message]
        if not keys:
            raise UserError(f'{location}: the message has no text; its key is one of {", ".join(_TEXT_KEYS)}.')
        text = next((message[key] for key in keys if message[key] is not None), None)
        if text is None:
            raise UserError(f'{location}: the message has no text, `{keys[0]}` is null. {_SKIP}')
    if isinstance(text, list):
        text = ''.join(_part(part, location) for part in text)
    if not isinstance(text, str):
        raise UserError(
            f'{location}: the message is {kind_of(text)}, not a text; the key of its text is one of '
            f'{", ".join(_TEXT_KEYS)}.'
        )
    return check_characters(text, location)


def _part(part: Any, location: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get('type', 'text') if isinstance(part, Mapping) else kind_of(part)
    if not isinstance(part, Mapping) or kind not in _TEXT_PARTS or not isinstance(part.get('text'), str):
        raise UserError(f'{location}: a part of the message is not a text, but {json.dumps(kind)}. {_SKIP}')
    return part['text']


def _is_learned(message: Any, location: str) -> bool:
    """Return whether a reply is learned: each mark that it has says so."""
    if not isinstance(message, Mapping):
        return True
    unclear = next((key for key in _UNCLEAR if message.get(key) is not None), None)
    if unclear is not None:
        raise UserError(f'{location}: `{unclear}` is not supported; `weight: 0` marks a reply that is only read.')
    for key in _IS_LEARNED:
        value = message.get(key)
        if value is not None and value not in (0, 1):
            raise UserError(f'{location}: `{key}` is {json.dumps(value)}; it must be 1 (learned) or 0 (only read).')
        if value is not None and not value:
            return False
    other = next((k for k, value in message.items() if k not in _IS_LEARNED and _says_no(k, value)), None)
    if other is not None:
        what = f'`{other}` is {json.dumps(message[other])}, which may say that the reply is not to be learned'
        raise UserError(f'{location}: {what}, but is not supported; `weight: 0` marks a reply that is only read.')
    return True


def _says_no(key: str, value: Any) -> bool:
    """Return whether a number, true or false says by its name that something is not to be learned, or one of a list."""
    if isinstance(value, list):
        return any(_says_no(key, item) for item in value if not isinstance(item, list))
    value = _plain(value)
    if not isinstance(value, bool | int | float):
        return False
    return bool(value) if _MAY_SAY_NO.fullmatch(key) else not value and bool(_MAY_SAY_YES.fullmatch(key))


def _plain(value: Any) -> Any:
    """Return the number or the truth that a text writes, as all cells of CSV do; other values unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return _TRUTHS[word] if (word := value.strip().lower()) in _TRUTHS else float(word)
    except ValueError:
        return value
