"""What rules refuse: requests with 400, answers with the finish reason content_filter."""

import json

import pytest

from palm_jax.errors import UserError
from palm_jax.monitoring.content_filter import ContentFilter, Rule
from palm_jax.serving.models import Loader, ServedModel
from tests.support import http
from tests.support.kinds import every_kind
from tests.support.server import running


@pytest.fixture
def kinds(micro):
    return {name: ServedModel(name, model) for name, model in every_kind(micro, 'classes', 'pairs', 'text').items()}


def post(site, path, body):
    return http.post(f'{site.url}{path}', json=body, timeout=60)


def test_inputs_are_refused_wherever_they_are(kinds):
    rule = Rule('no plums', lambda texts: [float('plum' in text) for text in texts], 'v', sides=('input',))
    messages = [{'role': 'user', 'content': 'a plum'}]
    with running(kinds, rules=ContentFilter([rule])) as site:
        for path, body in (
            ('/v1/classify', {'model': 'classes', 'input': ['a', 'plum']}),
            ('/v1/classify', {'model': 'pairs', 'input': 'a', 'second_input': 'plum'}),
            ('/v1/completions', {'model': 'text', 'prompt': 'plum', 'max_tokens': 2}),
            ('/v1/completions', {'model': 'text', 'prompt': [3 + byte for byte in b'plum'], 'max_tokens': 2}),
            ('/v1/chat/completions', {'model': 'text', 'messages': messages, 'max_tokens': 2}),
            ('/v1/embeddings', {'model': 'text', 'input': 'plum'}),
        ):
            refused = post(site, path, body)
            assert refused.status_code == 400 and refused.json()['error']['code'] == 'content_filter', (path, body)
            assert "'no plums'" in refused.json()['error']['message']
            allowed = json.loads(
                json.dumps(body).replace('plum', 'pear').replace(json.dumps([3 + b for b in b'plum']), '[70]')
            )
            assert post(site, path, allowed).status_code == 200, (path, allowed)


def test_answers_are_taken_away(kinds):
    seen = []

    def score(texts):
        seen.append(list(texts))
        return [1.0, *[0.0] * (len(texts) - 1)]

    rule = Rule('the first', score, 'v', sides=('output',))
    body = {'model': 'text', 'prompt': ['x', 'y'], 'max_tokens': 3, 'temperature': 0}
    chat = {'model': 'text', 'messages': [{'role': 'user', 'content': 'x'}], 'max_tokens': 3, 'temperature': 0}
    with running(kinds) as site:
        free = post(site, '/v1/completions', body).json()['choices']
    with running(kinds, rules=ContentFilter([rule])) as site:
        first, second = post(site, '/v1/completions', body).json()['choices']
        streamed = post(site, '/v1/completions', body | {'stream': True}).text
        answered = post(site, '/v1/chat/completions', chat).json()['choices'][0]
    assert (first['text'], first['finish_reason']) == ('', 'content_filter') and second == free[1]
    events = [json.loads(line[6:]) for line in streamed.split('\n') if line.startswith('data: {')]
    found = [(e['choices'][0]['index'], e['choices'][0]['text'], e['choices'][0]['finish_reason']) for e in events]
    assert found == [(0, '', 'content_filter'), (1, free[1]['text'], free[1]['finish_reason'])]
    assert (answered['message']['content'], answered['finish_reason']) == ('', 'content_filter')
    assert seen[0] == [choice['text'] for choice in free]


def test_a_rule_that_fails_is_named_and_nothing_is_sent(kinds):
    def score(texts):
        raise RuntimeError('out of order')

    rule = Rule('mine', score, 'v', sides=('output',))
    body = {'model': 'text', 'prompt': 'x', 'max_tokens': 3, 'temperature': 0}
    with running(kinds, rules=ContentFilter([rule])) as site:
        whole = post(site, '/v1/completions', body)
        streamed = post(site, '/v1/completions', body | {'stream': True})
    assert whole.status_code == 500 and "rule 'mine' has failed: RuntimeError: out of order" in whole.text
    (event,) = [line for line in streamed.text.split('\n') if line.startswith('data: ')]
    assert "rule 'mine' has failed" in json.loads(event[6:])['error']['message']


def test_a_classifier_scores_texts(kinds, monkeypatch):
    monkeypatch.setattr(Loader, '__call__', lambda _, name, directory: kinds[directory])
    score = Loader().scorer('classes', 'yes')
    expected = [p['yes'] for p in kinds['classes'].model.predict(['a', 'b'])]
    assert score(['a', ' ', 'b']) == pytest.approx([expected[0], 0, expected[1]]) and score(['']) == [0.0]
    for name, label, message in (
        ('text', 'yes', 'labels single texts'),
        ('classes', 'yess', 'Did you mean'),
        ('pairs', None, 'single'),
    ):
        with pytest.raises(UserError, match=message):
            Loader().scorer(name, label)
