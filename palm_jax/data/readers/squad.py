"""Questions about paragraphs in SQuAD's formats: nested, as it is published, or flat, as Hugging Face's datasets."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
from typing import Any

from palm_jax.data.readers.row import Row
from palm_jax.errors import UserError

UNANSWERABLE = 'unanswerable'  # the answer to a SQuAD 2 question that has none


def with_answer(row: Row) -> Row:
    """Return a row whose `answers` are texts as a row of a nested file: `answer` is the first of them.

    They are `{"text": [...], "answer_start": [...]}`, a list of such objects with a text each, or a list of texts; also
    as a cell that writes one of these as JSON or Python does. Other rows are returned unchanged, and so is an `answer`
    that the row has already.
    """
    found = _texts(row.values.get('answers'))
    if found is None:
        return row
    return dataclasses.replace(row, values=_answers(found) | row.values | {'answers': _answers(found)['answers']})


def _texts(answers: Any) -> list[str] | None:
    """Return the texts of answers; None if they are in another form."""
    if isinstance(answers, str) and answers.lstrip().startswith(('{', '[')):
        answers = _parse(answers)
    if isinstance(answers, dict) and 'text' in answers:
        answers = answers['text']
        answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list):
        return None
    given = [item.get('text') if isinstance(item, dict) else item for item in answers]
    texts = [text for text in given if isinstance(text, str)]
    return texts if len(texts) == len(given) else None


def _parse(cell: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(cell)
    return None


def _answers(texts: list[str]) -> dict[str, Any]:
    answers = list(dict.fromkeys(texts)) or [UNANSWERABLE]
    return {'answer': answers[0], 'answers': answers}


def is_nested(value: dict[str, Any]) -> bool:
    """Return whether a JSON object has the articles, paragraphs and questions of SQuAD."""
    articles = value.get('data')
    return isinstance(articles, list) and all(isinstance(a, dict) and 'paragraphs' in a for a in articles)


def questions(value: dict[str, Any], path: str) -> list[tuple[Any, str]]:
    """Return (row, location) of every question of a SQuAD file, with its context and answers.

    Raises:
      UserError: if a part of the format is missing.
    """
    found: list[tuple[Any, str]] = []
    paragraphs = [p for article in value['data'] for p in _part(article, 'paragraphs', path, list)]
    for number, paragraph in enumerate(paragraphs, 1):
        location = f'{path}, paragraph {number}'
        for question in _part(paragraph, 'qas', location, list):
            asked = _part(question, 'question', location, str)
            location = f'{path}, question {question.get("id", len(found) + 1)}'
            given = _part(question, 'answers', location, list)
            answers = [_part(answer, 'text', location, str) for answer in given]
            context = _part(paragraph, 'context', location, str)
            values = {'question': asked, 'context': context} | _answers(answers)
            found.append((values, location))
    return found


def _part(value: Any, name: str, location: str, kind: type) -> Any:
    if not isinstance(value, dict) or name not in value:
        found = ', '.join(value) if isinstance(value, dict) else type(value).__name__
        raise UserError(f"{location}: SQuAD's format requires {name!r} here; found: {found}.")
    if not isinstance(value[name], kind):
        wanted, found = ('a list' if kind is list else 'a text'), type(value[name]).__name__
        raise UserError(f"{location}: SQuAD's format requires {wanted} in {name!r}; found: {found}.")
    return value[name]
