"""Scorers of texts, from 0 to 1: words, patterns, functions, and services over HTTP."""

from __future__ import annotations

import http.client
import importlib
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from palm_jax.errors import UserError, closest
from palm_jax.whole_words import folded, pattern_of

Scorer: TypeAlias = Callable[[Sequence[str]], Sequence[float]]  # texts to a score of each, from 0 to 1
_PER_REQUEST = 32  # texts


def word_list(where: str, given: Any) -> list[str]:
    """Return a list of words, or those of a file with a word or phrase per line.

    Args:
      where: location of the rule, for messages.
      given: words, or the name of a file.

    Raises:
      UserError: there are none, or the file cannot be read.
    """
    if isinstance(given, str):
        try:
            given = [line.strip() for line in Path(given).read_text(encoding='utf-8').splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            advice = f'For one word write ["{given}"].'
            raise UserError(f'{where}: the file of words {given} cannot be read: {error}. {advice}') from None
    if not isinstance(given, list) or not given or not all(isinstance(word, str) and word.strip() for word in given):
        raise UserError(f'{where}: words must be a list of words, or a file with a word or phrase per line.')
    return given


def of_words(words: Sequence[str]) -> Scorer:
    """Return a scorer that is 1 where a text holds one of some words or phrases, whole and of any case."""
    return of_pattern('|'.join(map(pattern_of, words)), folded)


def checked_pattern(where: str, pattern: Any) -> str:
    """Return a regular expression.

    Raises:
      UserError: it is none, or is empty.
    """
    if not pattern:
        raise UserError(f'{where}: the pattern is empty, and would match every text.')
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UserError(f'{where}: the pattern {pattern!r} is not a regular expression: {error}.') from None
    return pattern


def of_pattern(pattern: str, prepare: Callable[[str], str] = str) -> Scorer:
    """Return a scorer that is 1 where a text, prepared, holds what a pattern matches, whatever its case."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda texts: [float(compiled.search(prepare(text)) is not None) for text in texts]


def of_function(where: str, name: str) -> Scorer:
    """Return a scorer that calls `module:function` with every text.

    Raises:
      UserError: it cannot be imported.
    """
    module, _, function = name.partition(':')
    try:
        score = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f'{where}: the function {name!r} (module:function) cannot be imported: {error}.') from None
    return lambda texts: [score(text) for text in texts]


def of_endpoint(where: str, url: Any, label: Any, key_variable: Any, seconds: float) -> Scorer:
    """Return a scorer that posts {"input": [texts]} to a service and reads a score of each text from the answer.

    The answer is that of `/v1/classify` of this project's server, that of OpenAI's `/v1/moderations`, or
    {"scores": [...]}.

    Args:
      where: location of the rule, for messages.
      url: address.
      label: label or category whose score counts; None takes the highest category of a moderation.
      key_variable: environment variable with the API key; None sends none.
      seconds: longest time to wait for an answer.

    Raises:
      UserError: the address is none, or the variable is not set. The scorer raises it for a service that does not
        answer, or says something else.
    """
    if not isinstance(url, str) or not url.startswith(('http://', 'https://')):
        raise UserError(f'{where}: url is {url!r}; it must begin with http:// or https://.')
    headers = {'Content-Type': 'application/json'}
    if key_variable is not None:
        key = os.environ.get(str(key_variable), '').strip()
        if not key:
            raise UserError(f'{where}: the environment variable {key_variable} is not set; it must hold the API key.')
        headers['Authorization'] = f'Bearer {key}'

    def ask(texts: Sequence[str]) -> list[float]:
        body = json.dumps({'input': list(texts)}).encode()
        request = urllib.request.Request(url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                content = json.load(answer)
        except urllib.error.HTTPError as error:
            raise UserError(f'{url} answers {error.code}: {error.read(300).decode(errors="replace")}') from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, 'reason', error)
            raise UserError(f'{url} does not answer: {getattr(reason, "strerror", None) or reason}') from None
        except ValueError as error:
            raise UserError(f'{url} does not answer with JSON: {error}') from None
        scores = _scores_of(content, label)
        if len(scores) != len(texts):
            raise UserError(f'{url} gave {len(scores)} scores for {len(texts)} texts')
        return scores

    def score(texts: Sequence[str]) -> list[float]:
        read = [number for number, text in enumerate(texts) if text.strip()]  # services refuse empty texts
        scores = [0.0] * len(texts)
        for first in range(0, len(read), _PER_REQUEST):
            part = read[first : first + _PER_REQUEST]
            for number, value in zip(part, ask([texts[number] for number in part]), strict=True):
                scores[number] = value
        return scores

    return score


def _scores_of(content: Any, label: str | None) -> list[float]:
    """Return the scores that an answer holds."""
    match content:
        case {'scores': list(scores)}:
            return [float(score) for score in scores]
        case {'results': list(results)}:
            return [_of_label(result['category_scores'], label, max) for result in results]
        case {'data': list(rows)}:
            ordered = sorted(rows, key=lambda row: row.get('index', 0))
            return [
                float(row['number']) if row.get('number') is not None else _of_label(row['probabilities'], label)
                for row in ordered
            ]
    raise RuntimeError(f'the answer has neither scores nor results nor data: {json.dumps(content)[:200]}')


def _of_label(scores: dict[str, float], label: str | None, otherwise: Callable[..., float] | None = None) -> float:
    if label is None and otherwise is not None:
        return float(otherwise(scores.values()))
    if label not in scores:
        raise RuntimeError(f'there is no label {label!r}.{closest(str(label), scores)} Labels: {", ".join(scores)}')
    return float(scores[label])
