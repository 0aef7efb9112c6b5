"""Tokens as responses show them: their names, their bytes and their place in the text."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from typing import Protocol

from palm_jax.inference.engine import Token
from palm_jax.serving import response_bodies

_LEAST = -9999.0  # OpenAI's log-probability of what has none; JSON knows no infinity


class Vocabulary(Protocol):
    """The part of a vocabulary that is needed to show tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""

    def token_bytes(self, i: int) -> bytes | None:
        """Return the bytes that an id adds to a text; None if it adds none."""


def name(vocabulary: Vocabulary, token: int) -> str:
    """Return a token's text; `bytes:\\xe4` for a part of a character, as OpenAI does; `token_id:1` if there is none."""
    content = vocabulary.token_bytes(token)
    if content is None:
        return f'token_id:{token}'
    try:
        return content.decode()
    except UnicodeDecodeError:
        return 'bytes:' + ''.join(f'\\x{byte:02x}' for byte in content)


def logprob(value: float) -> float:
    """Return a log-probability that JSON can hold."""
    return _LEAST if math.isnan(value) else max(_LEAST, value)


def names_and_logprobs(vocabulary: Vocabulary, pairs: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Return the log-probability of each token by its name; tokens that share a name are named by their ids."""
    result: dict[str, float] = {}
    for token, value in pairs:
        shown = name(vocabulary, token)
        result[f'token_id:{token}' if shown in result else shown] = logprob(value)
    return result


class Positions:
    """Positions of the tokens of a growing text: the number of characters that are complete before each token."""

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary, self._next = vocabulary, 0
        self._decoder = codecs.getincrementaldecoder('utf-8')('replace')
        self._is_first = True

    def add(self, token: int) -> int:
        """Return the position of the next token."""
        position, content = self._next, self._vocabulary.token_bytes(token) or b''
        text = self._decoder.decode(content)
        if self._is_first and text:
            # Some vocabularies leave out the space at the beginning of a text.
            text = text[len(text) - len(self._vocabulary.decode([token])) :] if text[0] == ' ' else text
            self._is_first = False
        self._next += len(text)
        return position


def text_logprobs(
    tokens: Sequence[Token], vocabulary: Vocabulary, num_top: int, positions: Positions
) -> response_bodies.TextLogprobs:
    """Return the log-probabilities of a completion's next tokens, and their positions in it."""
    top = [names_and_logprobs(vocabulary, token.top_logprobs) for token in tokens]
    return response_bodies.TextLogprobs(
        tokens=[name(vocabulary, token.id) for token in tokens],
        token_logprobs=[logprob(token.logprob) for token in tokens],
        top_logprobs=top if num_top else None,
        text_offset=[positions.add(token.id) for token in tokens],
    )


def chat_logprobs(tokens: Sequence[Token], vocabulary: Vocabulary) -> response_bodies.ChatLogprobs:
    """Return the log-probabilities of a chat's tokens."""

    def top_logprob(token: int, value: float) -> response_bodies.TopLogprob:
        content = vocabulary.token_bytes(token)
        return response_bodies.TopLogprob(
            token=name(vocabulary, token), logprob=logprob(value), bytes=None if content is None else list(content)
        )

    def with_alternatives(token: Token) -> response_bodies.TokenLogprob:
        alternatives = [top_logprob(*pair) for pair in token.top_logprobs]
        return response_bodies.TokenLogprob(**dict(top_logprob(token.id, token.logprob)), top_logprobs=alternatives)

    return response_bodies.ChatLogprobs(content=list(map(with_alternatives, tokens)))
