"""python -m examples.customer_service.customers --questions=data/desk/german.csv

Plays the customers of a served classifier (palm-jax serve --model=intents=... --keep=requests.db): asks every question
of a table over HTTP, each as another user, and says at /v1/feedback which label is right, with thumbs up or down.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from examples import tables
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, positive
from palm_jax.errors import UserError

_SECONDS = 120.0  # that an answer may take


def main(arguments: Sequence[str]) -> int:
    """Ask, and correct what was answered."""
    parser = Parser(
        prog='python -m examples.customer_service.customers',
        description=__doc__,
        example='python -m examples.customer_service.customers --questions=data/desk/german.csv',
    )
    parser.add_argument('--questions', required=True, help='table with the columns text and label')
    parser.add_argument('--count', type=positive, help='number of questions, from the first; default: all')
    parser.add_argument('--server', default='http://127.0.0.1:8000', help='address of palm-jax serve')
    parser.add_argument('--model', default='intents', help='name of the served model')
    options = parser.parse_args(arguments)
    rows = [texts for _, texts in tables.read(options.questions, '--questions', 'text', 'label')][: options.count]
    right = refused = 0
    for number, (text, label) in enumerate(rows):
        asked = {'model': options.model, 'input': text, 'user': f'customer {number}'}
        answered = _post(options.server, '/v1/classify', asked)
        if answered is None:
            refused += 1
            continue
        identifier, answer = answered
        is_right = answer['data'][0]['label'] == label
        right += is_right
        rating = 'up' if is_right else 'down'
        _post(options.server, '/v1/feedback', {'id': identifier, 'label': label, 'rating': rating})
    print(f'asked      {len(rows)} questions: {right} answers were right, {len(rows) - right - refused} were corrected')
    if refused:
        print(f'refused    {refused} by a rule of the server')
    return 0


def _post(server: str, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the id and the content of an answer; None if a rule of the server refuses what is asked.

    Raises:
      UserError: the server does not answer, or answers with an error.
    """
    headers = {'Content-Type': 'application/json'}
    if token := os.environ.get('PALM_JAX_TOKEN', '').strip():
        headers['Authorization'] = f'Bearer {token}'
    try:
        request = urllib.request.Request(server.rstrip('/') + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return response.headers.get('X-Request-Id', ''), json.load(response)
    except urllib.error.HTTPError as error:
        problem = _problem(error)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(
            f'--server={server} does not answer: {getattr(error, "reason", error)}. Start it: '
            'palm-jax serve --model=intents=runs/desk --keep=requests.db'
        ) from None
    if problem['code'] == 'content_filter':
        return None
    raise UserError(f'--server={server} refuses {path}: {problem["message"]}')


def _problem(error: urllib.error.HTTPError) -> dict[str, Any]:
    """Return what a server says is wrong."""
    try:
        problem = json.load(error)['error']
        return {'message': str(problem['message']), 'code': problem.get('code')}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {'message': f'status {error.code}', 'code': None}


if __name__ == '__main__':
    command_line.run(main)
