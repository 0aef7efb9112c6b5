"""Scorers over HTTP: this project's own server, a service that speaks OpenAI's moderations, and broken ones."""

import http.server
import json
import socket
import threading

import pytest

from palm_jax.errors import UserError
from palm_jax.monitoring import content_filter
from palm_jax.monitoring.content_filter import Rule
from palm_jax.serving.models import ServedModel
from tests.support.kinds import every_kind
from tests.support.server import running


def rule_of(tmp_path, **given):
    path = tmp_path / 'rules.json'
    path.write_text(json.dumps([{'name': 'r', **given}]))
    (rule,) = content_filter.load(path, None)
    return rule


@pytest.fixture
def service():
    """A server that answers with what `answer` returns for the texts; `asked` has the requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
            self.server.asked.append((self.headers.get('Authorization'), body))
            status, content = self.server.answer(body['input'])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.asked, server.url = [], f'http://127.0.0.1:{server.server_port}/v1/moderations'
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_another_server_of_ours_scores_texts(micro, tmp_path):
    kinds = {name: ServedModel(name, model) for name, model in every_kind(micro, 'classes').items()}
    with running(kinds) as site:
        rule = rule_of(tmp_path, url=f'{site.url}/v1/classify', label='yes')
        found = rule.scores(['a text', ' ', 'another'])
        with pytest.raises(UserError, match=r'no label .yess.. Did you mean yes'):
            rule_of(tmp_path, url=f'{site.url}/v1/classify', label='yess')
    expected = [p['yes'] for p in kinds['classes'].model.predict(['a text', 'another'])]
    assert found == pytest.approx([expected[0], 0.0, expected[1]], abs=1e-5)
    with pytest.raises(UserError, match='does not answer'):
        rule.scores(['a text'])


def test_moderations_and_scores_are_read(service, tmp_path, monkeypatch):
    of = lambda text: {'hate': 0.1 * text.count('h'), 'violence': 0.2 * text.count('v')}  # noqa: E731
    service.answer = lambda texts: (200, json.dumps({'results': [{'category_scores': of(t)} for t in texts]}))
    monkeypatch.setenv('MODERATION_KEY', 'secret')
    rule = rule_of(tmp_path, url=service.url, key_variable='MODERATION_KEY')
    texts = ['h', 'v', 'hhhv', *['x'] * 40]
    assert rule.scores(texts) == pytest.approx([0.1, 0.2, 0.3, *[0] * 40])
    assert [len(body['input']) for _, body in service.asked] == [1, 32, 11]  # the first is the test at the start
    assert {key for key, _ in service.asked} == {'Bearer secret'}
    assert rule_of(tmp_path, url=service.url, label='violence').scores(['hhv']) == pytest.approx([0.2])
    service.answer = lambda texts: (200, json.dumps({'scores': [len(t) / 100 for t in texts]}))
    assert isinstance(rule, Rule) and rule.scores(['abc']) == pytest.approx([0.03])


@pytest.mark.parametrize(
    ('answer', 'message'),
    [
        ((500, 'out of order'), r'answers 500: out of order'),
        ((200, '<html>'), 'does not answer with JSON'),
        ((200, '{"scores": [0.1, 0.2]}'), 'gave 2 scores for 1 texts'),
        ((200, '{"scores": [1.5]}'), 'gave the score 1.5'),
        ((200, '{"ok": true}'), 'neither scores nor results nor data'),
    ],
)
def test_a_service_that_says_something_else_is_named(service, tmp_path, answer, message):
    service.answer = lambda texts: answer
    with pytest.raises(UserError, match=rf'rule 1: The rule .r. .*{message}'):
        rule_of(tmp_path, url=service.url)


def test_a_service_that_is_not_there_is_named(tmp_path):
    with socket.socket() as closed:  # bound, but not listening
        closed.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{closed.getsockname()[1]}'
        with pytest.raises(UserError, match=rf'has failed: {url} does not answer: Connection refused$'):
            rule_of(tmp_path, url=url)


def test_wrong_rules_of_services_are_named(tmp_path):
    for given, message in (
        ({'url': 'localhost:80'}, 'it must begin with http'),
        ({'url': 'http://x', 'key_variable': 'NO_SUCH_KEY'}, 'NO_SUCH_KEY is not set'),
        ({'url': 'http://x', 'seconds': 0}, 'seconds is 0'),
        ({'words': ['a'], 'seconds': 3}, 'seconds belongs to a rule with a url'),
    ):
        with pytest.raises(UserError, match=message):
            rule_of(tmp_path, **given)
