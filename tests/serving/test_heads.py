"""/v1/classify and /v1/tag: every kind of head, the bodies that the documents show, and wrong bodies."""

import json
import re

import httpx
import pytest

from tests.support import http
from tests.support.paths import ROOT
from tests.support.server import running

WRONG = {
    'no texts': ({'input': []}, 'input: is an empty list; send a text or a list of 1 to 1,024 texts'),
    'too many': ({'input': ['a'] * 1025}, 'input: is a list of 1,025; at most 1,024 are allowed'),
    'a number': ({'input': 5}, 'input: must be a text or a list of 1 to 1,024 texts, not a number'),
    'null': ({'input': None}, 'input: this field is required'),
    'nothing': ({}, 'input: this field is required'),
    'a number among texts': ({'input': ['a', 5]}, 'input: item 2 must be a text, not a number'),
    'lists of texts': ({'input': [['a']]}, 'input: item 1 must be a text, not a list'),
    'half a character': ({'input': 'ab\ud83d'}, 'input: holds the lone surrogate U+D83D at character 3'),
    'a NUL': ({'input': ['a', 'b\0']}, 'input: item 2 holds NUL at character 2'),
    'unknown': ({'input': 'a', 'inputs': 'b'}, 'inputs: this field is unknown. Did you mean input?'),
    'a second text': ({'input': 'a', 'second_input': 'b'}, 'reads single texts: send no second_input'),
    'no JSON': (b'{"model": "x", "input": "a",}', 'The body is not valid JSON: '),
    'cut': (b'{"model": "x", "input": "a', 'The body is not valid JSON: Unterminated string'),
    'nothing at all': (b'', 'this field is required'),
    'a list': (b'[]', 'must be a JSON object, not a list'),
    'a text': (b'"a"', 'must be a JSON object, not a text'),
    'not UTF-8': (b'{"model": "x", "input": "\xff"}', 'The body is not valid JSON: it is not UTF-8'),
    'too deep': (b'[' * 200_000, 'The body is not valid JSON: its objects and lists are nested too deeply'),
    'too many digits': (b'{"input": ' + b'9' * 5000 + b'}', 'The body is not valid JSON: it holds a number'),
}


@pytest.fixture
def site(kinds):
    with running(kinds) as site:
        yield site


def ask(site, path, body):
    content = body if isinstance(body, bytes) else json.dumps(body)
    return http.post(f'{site.url}{path}', content=content, headers={'Content-Type': 'application/json'}, timeout=60)


def test_every_kind_of_head(site, kinds):
    texts = ['ein Text', '中文' * 40, '.', 'Ann met Bob.']
    for name in ('classes', 'labels'):
        rows = ask(site, '/v1/classify', {'model': name, 'input': texts}).json()['data']
        assert [row['index'] for row in rows] == list(range(len(texts)))
        for row, expected in zip(rows, kinds[name].model.predict(texts), strict=True):
            assert row['probabilities'] == pytest.approx(expected, abs=1e-5)
    pairs = {'model': 'pairs', 'input': ['a', 'b'], 'second_input': ['c', 'd']}
    numbers = [row['number'] for row in ask(site, '/v1/classify', pairs).json()['data']]
    assert numbers == pytest.approx(kinds['pairs'].model.predict(['a', 'b'], ['c', 'd']), abs=1e-5)
    tagged = ask(site, '/v1/tag', {'model': 'tags', 'input': texts, 'user': 'me', 'metadata': None}).json()['data']
    assert [row['entities'] for row in tagged] == kinds['tags'].model.extract_entities(texts)


def test_wrong_bodies_are_answered_clearly(site):
    for path, model in (('/v1/classify', 'classes'), ('/v1/tag', 'tags')):
        for name, (body, message) in WRONG.items():
            answer = ask(site, path, body | {'model': model} if isinstance(body, dict) else body)
            assert answer.status_code == 400 and message in answer.json()['error']['message'], (name, answer.text)
    for body, message in (
        ({'input': 'a'}, 'reads pairs: send a second_input for every input'),
        ({'input': ['a', 'b'], 'second_input': 'c'}, 'input has 2 texts, second_input has 1'),
    ):
        answer = ask(site, '/v1/classify', body | {'model': 'pairs'})
        assert answer.status_code == 400 and message in answer.json()['error']['message'], answer.text
    for path, model, key in (
        ('/v1/classify', 'classes', 'input'), ('/v1/classify', 'labels', 'input'), ('/v1/tag', 'tags', 'input'),
        ('/v1/completions', 'text_to_text', 'prompt'), ('/v1/completions', 'chat', 'prompt'),
    ):  # fmt: skip
        for empty in ('', ' \n', '\u3000'):
            answer = ask(site, path, {'model': model, key: ['a', empty]})
            assert answer.status_code == 400, (model, answer.text)
            assert re.search(r'^(Input|prompt) 1\b.* is empty', answer.json()['error']['message']), answer.text
    for model in ('chat', 'text_to_text'):
        messages = [{'role': 'user', 'content': 'a'}, {'role': 'user', 'content': ' '}]
        answer = ask(site, '/v1/chat/completions', {'model': model, 'messages': messages})
        assert answer.status_code == 400 and 'message 2: ' in answer.json()['error']['message'], answer.text
    answer = ask(site, '/v1/classify', {'model': 'pairs', 'input': ['a', 'b'], 'second_input': ['c', '']})
    assert answer.status_code == 400 and answer.json()['error']['param'] == 'input'
    assert 'Input 1, part 1, is empty' in answer.json()['error']['message']
    answer = ask(site, '/v1/classify', {'model': 'tags', 'input': 'a'})
    assert answer.status_code == 404 and 'is for tag' in answer.json()['error']['message']


def test_the_only_model_needs_no_name(kinds):
    bodies = {
        'classes': ('/v1/classify', {'input': 'a'}),
        'tags': ('/v1/tag', {'input': 'a'}),
        'text': ('/v1/completions', {'prompt': 'a', 'max_tokens': 1}),
        'chat': ('/v1/chat/completions', {'messages': [{'role': 'user', 'content': 'a'}], 'max_tokens': 1}),
    }
    with running({'classes': kinds['classes'], 'text': kinds['text']}) as site:  # a single one for each endpoint
        for name in ('classes', 'text'):
            path, body = bodies[name]
            for given in (body, body | {'model': None}, body | {'model': name}):
                answer = ask(site, path, given)
                assert answer.status_code == 200 and answer.json()['model'] == name, answer.text
        answer = ask(site, '/v1/tag', {'input': 'a'})
        assert answer.status_code == 404 and 'No served model can do this' in answer.json()['error']['message']
    with running(kinds) as site:
        for name in ('classes', 'text', 'chat'):
            answer = ask(site, *bodies[name])
            assert answer.status_code == 400 and answer.json()['error']['param'] == 'model', answer.text
            assert name in answer.json()['error']['message']
        assert ask(site, *bodies['tags']).json()['model'] == 'tags'


def test_the_bodies_in_the_documents_are_answered(site):
    page = (ROOT / 'docs' / 'serving.md').read_text()
    shown = re.findall(r'`POST (/v1/(?:classify|tag))`.*?```json\n(.*?)```.*?```json\n(.*?)```', page, re.DOTALL)
    assert {path for path, *_ in shown} == {'/v1/classify', '/v1/tag'}
    names = {'intents': 'classes', 'names': 'tags', 'similarity': 'pairs'}
    for path, body, answer in shown:
        request = json.loads(body)
        found = ask(site, path, request | {'model': names[request['model']]})
        assert found.status_code == 200, found.text
        documented = json.loads(answer)
        assert found.json().keys() == documented.keys()
        assert found.json()['data'][0].keys() == documented['data'][0].keys()


def test_too_many_requests_for_heads_are_refused(kinds):
    import asyncio

    async def ask_all(site):
        async with httpx.AsyncClient(timeout=60) as http:
            body = {'model': 'classes', 'input': ['a'] * 200}
            return await asyncio.gather(*(http.post(f'{site.url}/v1/classify', json=body) for _ in range(40)))

    with running(kinds, max_waiting=2) as site:
        statuses = [answer.status_code for answer in asyncio.run(ask_all(site))]
        assert set(statuses) == {200, 429}
