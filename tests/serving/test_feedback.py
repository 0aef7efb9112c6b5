"""A server that keeps what it is asked, and takes feedback; one that was not asked to keeps nothing."""

import pytest
from fastapi.testclient import TestClient

from palm_jax.inference.engine import Engine
from palm_jax.monitoring.request_log import RequestLog, read
from palm_jax.serving.app import create_app
from palm_jax.serving.models import ServedModel
from palm_jax.serving.routing import Models
from tests.support import http
from tests.support.kinds import every_kind
from tests.support.server import running


@pytest.fixture
def kinds(micro):
    return {name: ServedModel(name, model) for name, model in every_kind(micro, 'classes', 'pairs', 'text').items()}


def post(site, path, body, status=200):
    response = http.post(f'{site.url}{path}', json=body, timeout=60)
    assert response.status_code == status, response.text
    return response


def test_requests_are_kept_with_feedback(kinds, tmp_path):
    file = tmp_path / 'kept.db'
    log = RequestLog(file)
    with running(kinds, log=log) as site:
        labelled = post(site, '/v1/classify', {'model': 'classes', 'input': ['one', 'two']})
        pair = post(site, '/v1/classify', {'model': 'pairs', 'input': 'a', 'second_input': 'b'})
        ask = {'model': 'text', 'prompt': ['x', 'y'], 'n': 2, 'max_tokens': 3, 'temperature': 0}
        text = post(site, '/v1/completions', ask).json()
        messages = [{'role': 'user', 'content': 'hi'}]
        chat = {'model': 'text', 'messages': messages, 'max_tokens': 3, 'temperature': 0, 'stream': True}
        post(site, '/v1/chat/completions', chat)
        ids = [response.headers['X-Request-Id'] for response in (labelled, pair)]
        said = {'id': ids[0], 'index': 1, 'label': 'yes', 'rating': 'down', 'comment': 'wrong'}
        assert post(site, '/v1/feedback', said).json() == {'object': 'feedback', 'id': ids[0], 'index': 1}
        post(site, '/v1/feedback', {'id': ids[1], 'label': 2.5})
        post(site, '/v1/feedback', {'id': text['id'], 'index': 3, 'rating': 'up'})
        assert 'answer_not_found' in post(site, '/v1/feedback', {'id': ids[0], 'index': 2, 'rating': 'up'}, 404).text
        assert 'Send a label' in post(site, '/v1/feedback', {'id': ids[0]}, 400).text
        post(site, '/v1/feedback', {'id': ids[0], 'rating': 'sideways'}, 400)
        assert 'Send a label' in post(site, '/v1/feedback', {'id': ids[0], 'comment': ' \n'}, 400).text
        post(site, '/v1/feedback', {'id': ids[0], 'comment': '', 'rating': 'down'})
        rows = list(read(file))
    log.close()
    by_model = {name: [k for k in rows if k.model == name] for name in kinds}
    assert [k.input for k in by_model['classes']] == ['one', 'two'] and by_model['classes'][1].label == 'yes'
    assert labelled.json()['data'][0] == by_model['classes'][0].answer | {'number': None}
    assert by_model['pairs'][0].label == 2.5
    assert by_model['pairs'][0].input == ['a', 'b'] and by_model['pairs'][0].endpoint == '/v1/classify'
    *completed, streamed = by_model['text']
    assert [k.input for k in completed] == ['x', 'x', 'y', 'y'] and completed[3].rating == 'up'
    assert [k.answer['text'] for k in completed] == [choice['text'] for choice in text['choices']]
    assert streamed.input == messages and streamed.id.startswith('chatcmpl-')


LABELS = {  # by kind of model: (right answers, wrong ones, what the message says)
    'classes': (['yes', '<b>&'], ['Yes', '', 2.0, ['yes']], 'Its labels: no, yes, <b>&.'),
    'labels': ([['a', 'b'], [], 'a'], [['a', 'c'], 'c', 1.0], 'Its labels: a, b.'),
    'pairs': ([2.5, 0], ['two', [1]], 'is a number'),
    'tags': ([['O', 'B-PER']], [['O', 'B-LOC'], 'B-PER', 1.5], 'Its labels: O, B-PER, I-PER.'),
    'text': (['any text'], [3.0, ['a'], ' '], 'is a text'),
}


def test_a_label_that_the_model_cannot_give_is_refused(micro, tmp_path):
    file, served = tmp_path / 'kept.db', every_kind(micro, *LABELS)
    log = RequestLog(file)
    for name in LABELS:
        log.add(f'id-{name}', name, 'checkpoint', '/v1/any', ['a'], [{}])
    log.add('id-gone', 'gone', 'checkpoint', '/v1/classify', ['a'], [{}])
    models = Models({name: ServedModel(name, model) for name, model in served.items()})
    app = create_app(models, Engine(1), log=log)
    client = TestClient(app)
    for name, (right, wrong, message) in LABELS.items():
        for label in right:
            assert client.post('/v1/feedback', json={'id': f'id-{name}', 'label': label}).status_code == 200
        kept = next(k for k in read(file, model=name, with_label=True))
        for label in wrong:
            answer = client.post('/v1/feedback', json={'id': f'id-{name}', 'label': label})
            assert answer.status_code == 400 and answer.json()['error']['param'].startswith('label'), answer.text
            if not isinstance(label, list) or all(isinstance(item, str) for item in label):
                assert message in answer.json()['error']['message']
        assert next(k for k in read(file, model=name, with_label=True)) == kept and kept.label == right[-1]
    assert 'Did you mean yes' in client.post('/v1/feedback', json={'id': 'id-classes', 'label': 'yess'}).text
    # Of a model that is not served any more, the labels are not known; a rating needs none.
    assert client.post('/v1/feedback', json={'id': 'id-gone', 'label': 'x'}).status_code == 200
    assert client.post('/v1/feedback', json={'id': 'id-classes', 'rating': 'up'}).status_code == 200
    log.close()  # as if the database were away
    answer = client.post('/v1/feedback', json={'id': 'id-classes', 'rating': 'up'})
    assert answer.status_code == 503 and answer.headers['Retry-After'] == '10', answer.text


def test_nothing_is_kept_unless_it_is_asked_for(kinds):
    with running({'classes': kinds['classes']}) as site:
        response = post(site, '/v1/classify', {'model': 'classes', 'input': 'a'})
        assert 'X-Request-Id' not in response.headers
        refused = http.post(f'{site.url}/v1/feedback', json={'id': 'x', 'rating': 'up'})
        assert refused.status_code == 404 and 'palm-jax serve --keep=requests.db' in refused.json()['error']['message']
        assert '/v1/feedback' not in http.get(f'{site.url}/openapi.json').json()['paths']
