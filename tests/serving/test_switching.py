"""Champions are switched, and two models share requests, while a server runs."""

import dataclasses
import gc
import json
import threading
import types

import pytest

from palm_jax.errors import UserError
from palm_jax.inference.generate import Sampler
from palm_jax.monitoring.registry import Decision, Registry
from palm_jax.monitoring.request_log import RequestLog, read
from palm_jax.serving import routing
from palm_jax.serving.models import ServedModel
from palm_jax.serving.routing import ABTest
from tests.support import http
from tests.support.kinds import every_kind
from tests.support.models import shaken
from tests.support.programs import run_here
from tests.support.server import running, slowed


@pytest.fixture
def trained(micro):
    return every_kind(micro, 'classes', 'tags', 'text')


def other(model):
    """The model with other parameters."""
    return dataclasses.replace(model, params=shaken(model.params), checkpoint='other')


def writing_otherwise(model):
    """The model with parameters that differ enough for other texts; otherwise both repeat the last token."""
    for _ in range(8):
        model = other(model)
    return model


def classify(site, text, **fields):
    response = http.post(f'{site.url}/v1/classify', json={'input': text, **fields}, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()['data'][0]


def test_a_new_champion_is_served_without_losing_a_request(trained, tmp_path):
    registry = Registry(tmp_path)
    registry.adopt('first')
    models = {'first': trained['classes'], 'second': other(trained['classes'])}
    entry = ServedModel('m', models['first'], 'first', registry)
    served = {'m': entry}

    def load(name, directory):
        champion = Registry(tmp_path).champion()
        if champion not in models:
            raise UserError(f'{champion} does not exist')
        return ServedModel(name, models[champion], champion, registry)

    expected = {name: dict(model.predict(['a text'])[0]) for name, model in models.items()}
    seen, stop = [], threading.Event()
    with running(served, load=load) as site:

        def ask():
            while not stop.is_set():
                seen.append(classify(site, 'a text'))

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            registry.decide(Decision('promoted', 'second', 1))
            wait_for(lambda: served['m'].directory == 'second')
            number = len(seen)
            wait_for(lambda: len(seen) > number + 6)  # those that had begun may still be of the first
            last = classify(site, 'a text')
            registry.decide(Decision('promoted', 'missing', 2))
            wait_for(lambda: site.switcher._refused.get('m') == 'missing')
            assert classify(site, 'a text') == last  # what cannot be loaded changes nothing
            registry.roll_back()
            registry.roll_back()
            wait_for(lambda: served['m'].directory == 'first')
        finally:
            stop.set()
            for client in clients:
                client.join(60)
    probabilities = [answer['probabilities'] for answer in seen]
    assert all(p in (pytest.approx(expected['first']), pytest.approx(expected['second'])) for p in probabilities)
    assert last['probabilities'] == pytest.approx(expected['second'])


def test_a_champion_that_generates_text_is_served_without_losing_a_request(trained, tmp_path):
    registry = Registry(tmp_path)
    registry.adopt('first')
    known = {'first': trained['text'], 'second': writing_otherwise(trained['text'])}
    served = {'m': ServedModel('m', known['first'], 'first', registry)}

    def load(name, directory):
        champion = Registry(tmp_path).champion()
        if champion == 'broken':  # it loads, but nothing can be computed with it
            return ServedModel(name, dataclasses.replace(known['first'], params={}), champion, registry)
        return ServedModel(name, known[champion], champion, registry)

    greedy = Sampler(max_tokens=24, temperature=0.0)
    expected = {name: model.generate(['abc'], greedy)[0] for name, model in known.items()}
    assert expected['first'] != expected['second']
    seen, stop = [], threading.Event()

    def complete(site, **fields):
        body = {'prompt': 'abc', 'max_tokens': 24, 'temperature': 0, **fields}
        response = http.post(f'{site.url}/v1/completions', json=body, timeout=60)
        assert response.status_code == 200, response.text
        return response.json()['choices'][0]['text']

    def stream(site):
        body = {'prompt': 'abc', 'max_tokens': 24, 'temperature': 0, 'stream': True}
        with http.stream('POST', f'{site.url}/v1/completions', json=body, timeout=60) as response:
            events = [line.removeprefix('data: ') for line in response.iter_lines() if line.startswith('data: {')]
        return ''.join(choice['text'] for event in events for choice in json.loads(event)['choices'])

    with running(served, load=load, slots=2) as site:
        slowed(site.engine, 0.02)

        def ask(how):
            while not stop.is_set():
                seen.append(how(site))

        clients = [threading.Thread(target=ask, args=(how,)) for how in (complete, stream, stream)]
        for client in clients:
            client.start()
        try:
            wait_for(lambda: len(seen) > 3)
            registry.decide(Decision('promoted', 'second', 1))
            wait_for(lambda: served['m'].directory == 'second')
            assert complete(site) == expected['second']  # while texts of the first are still being generated
            registry.decide(Decision('promoted', 'broken', 2))
            wait_for(lambda: site.switcher._refused.get('m') == 'broken')
            assert complete(site) == expected['second'] and site.engine.failure is None
            registry.roll_back()
            registry.roll_back()
            wait_for(lambda: served['m'].directory == 'first')
            assert complete(site) == expected['first']
        finally:
            stop.set()
            for client in clients:
                client.join(60)
        assert not any(client.is_alive() for client in clients)
        site.switcher.look()
        gc.collect()
        wait_for(lambda: len(site.engine._models) == 1)  # the former ones are let go
        assert complete(site) == expected['first']
    assert set(seen) == set(expected.values())


def wait_for(is_so):
    for _ in range(1200):
        if is_so():
            return
        threading.Event().wait(0.05)
    raise AssertionError('it did not happen within a minute')


def test_a_share_of_requests_is_answered_by_the_second_model(trained, tmp_path):
    first = dataclasses.replace(trained['classes'], checkpoint='first')
    served = {'m': ServedModel('m', first, 'first')}
    tests = {'m': ABTest(ServedModel('m', other(first), 'second'), 0.5)}
    log = RequestLog(tmp_path / 'kept.db')
    with running(served, log=log, tests=tests) as site:
        names = [model['id'] for model in http.get(f'{site.url}/v1/models').json()['data']]
        for user in ('ann', 'bob', 'cleo', 'dan', 'eve', 'fay'):
            assert classify(site, 'x', user=user) == classify(site, 'x', user=user)  # one model for each user
        rows = list(read(tmp_path / 'kept.db', model='m'))
    log.close()
    assert names == ['m'] and {row.checkpoint for row in rows} == {'first', 'other'}


def test_a_model_that_writes_is_tested_too(trained, tmp_path):
    """Texts, chats and streams come from the model of the user, and thumbs decide between the two."""
    first = dataclasses.replace(trained['text'], checkpoint='first')
    served = {'m': ServedModel('m', first, 'first')}
    second = ServedModel('m', writing_otherwise(first), 'second')
    tests = routing.load_tests(['m=second'], 0.5, served, lambda *_: second)
    log = RequestLog(tmp_path / 'kept.db')
    users = [f'user {number}' for number in range(12)]
    greedy = {'max_tokens': 24, 'temperature': 0}
    expected = {
        model.checkpoint: model.generate(['abc'], Sampler(max_tokens=24, temperature=0.0))[0]
        for model in (first, tests['m'].model.model)
    }
    assert len(set(expected.values())) == 2
    with running(served, log=log, tests=tests) as site:

        def post(path, **body):
            response = http.post(f'{site.url}{path}', json=body, timeout=60)
            assert response.status_code == 200, response.text
            return response

        for user in users:
            checkpoint = 'other' if tests['m'].is_for(user) else 'first'
            written = post('/v1/completions', prompt='abc', user=user, **greedy).json()
            assert written['choices'][0]['text'] == expected[checkpoint]
            post('/v1/feedback', id=written['id'], rating='up' if checkpoint == 'other' else 'down')
        ids = list(b'abc')
        of_ids = [post('/v1/completions', prompt=ids, user=user, **greedy).json()['id'] for user in users]
        chat = {'messages': [{'role': 'user', 'content': 'abc'}], 'stream': True, **greedy}
        for user in users:
            post('/v1/chat/completions', user=user, **chat)
        post('/v1/completions', prompt='abc', user='', **greedy)
    log.close()
    rows = list(read(tmp_path / 'kept.db', model='m'))
    assert {row.checkpoint for row in rows if row.id in of_ids} == {'first'}  # whose ids they are
    assert {row.checkpoint for row in rows if row.endpoint == '/v1/chat/completions'} == {'first', 'other'}
    flags = f'--requests={tmp_path / "kept.db"}', '--model=m', '--first=first', '--second=other'
    result = run_here('palm_jax.cli.ab_test', *flags)
    assert 'thumbs up: 0.0% (0 of ' in result.stdout and 'The second model is better.' in result.stdout, result.stderr


def test_the_share_is_that_of_users_and_of_requests(trained):
    test = ABTest(ServedModel('m', trained['classes']), 0.2)
    of_users = [test.is_for(f'user {number}') for number in range(4000)]
    of_requests = [test.is_for(None) for _ in range(4000)]
    for chosen in (of_users, of_requests):
        assert abs(sum(chosen) / 4000 - 0.2) < 0.03  # five standard deviations
    assert of_users == [test.is_for(f'user {number}') for number in range(4000)]


def test_models_that_answer_differently_are_refused(trained):
    models = {name: ServedModel(name, model, f'runs/{name}') for name, model in trained.items()}
    for first, second, message in (
        ('text', 'tags', 'runs/tags is for'),
        ('classes', 'tags', 'runs/tags is for'),
    ):
        with pytest.raises(UserError, match=message):
            routing.check(models[first], models[second])
    routing.check(models['classes'], models['classes'])
    routing.check(models['text'], models['text'])
    fewer = dataclasses.replace(trained['classes'], data=types.SimpleNamespace(labels=('no', 'yes')))
    with pytest.raises(UserError, match="has the labels \\['no', 'yes'\\], classes has"):
        routing.check(models['classes'], ServedModel('classes', fewer, 'runs/fewer'))
    loader = lambda name, directory: models[directory]  # noqa: E731
    with pytest.raises(UserError, match='served model: classes'):
        routing.load_tests(['clases=classes'], 0.5, {'classes': models['classes']}, loader)
    with pytest.raises(UserError, match='already'):
        routing.load_tests(['classes=classes'] * 2, 0.5, {'classes': models['classes']}, loader)
