"""Long prompts, names of models, and texts that are not text."""

import threading
from types import SimpleNamespace

import pytest

from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.errors import UserError
from palm_jax.serving import models
from palm_jax.serving.models import ServedModel
from tests.support import http
from tests.support.server import running


class Patient(ExtendedVocabulary):
    """Bytes that are encoded once somebody allows it."""

    allowed = threading.Event()

    def encode(self, text):
        if len(text) > 10:
            assert self.allowed.wait(20)
        return super().encode(text)


def test_the_server_answers_while_it_encodes_long_prompts(served):
    base = served['base'].model
    data = SimpleNamespace(vocabulary=Patient(Bytes(), 0), length=64, labels=())
    patient = {'base': ServedModel('base', type(base)(base.model, base.params, data, ''))}
    bodies = {
        '/v1/completions': {'model': 'base', 'prompt': 'x' * 100_000},
        '/v1/chat/completions': {'model': 'base', 'messages': [{'role': 'user', 'content': 'x' * 100_000}]},
    }
    answers = []
    with running(patient) as site:

        def ask(path):
            answers.append(http.post(f'{site.url}{path}', json=bodies[path], timeout=60))

        threads = [threading.Thread(target=ask, args=(path,)) for path in [*bodies, '/v1/completions']]
        for thread in threads:
            thread.start()
        assert http.get(f'{site.url}/health', timeout=10).status_code == 200
        short = {'model': 'base', 'prompt': 'a', 'max_tokens': 2}
        assert http.post(f'{site.url}/v1/completions', json=short, timeout=20).status_code == 200
        assert not answers
        Patient.allowed.set()
        for thread in threads:
            thread.join()
    assert all(a.status_code == 400 and 'the context length is 64 tokens' in a.text for a in answers)


def test_names_with_slashes_are_found(served):
    named = {name: ServedModel(name, served['base'].model) for name in ('org/name', 'a b', 'ä', 'x=y', 'x%2Fy')}
    with running(named) as site:
        for path in ('org/name', 'org%2Fname', 'org%2fname', 'a%20b', '%C3%A4', 'x=y', 'x%3Dy', 'x%252Fy'):
            answer = http.get(f'{site.url}/v1/models/{path}')
            assert answer.status_code == 200 and answer.json()['id'] in named, path
        for path in ('org', 'org/nam', 'org/name/', '', 'org%2Fname%2F'):
            assert http.get(f'{site.url}/v1/models/{path}', follow_redirects=True).status_code in (200, 404), path
        assert 'Did you mean org/name?' in http.get(f'{site.url}/v1/models/org/nam').json()['error']['message']
        said = http.post(f'{site.url}/v1/completions', json={'model': 'org/name', 'prompt': 'a', 'max_tokens': 1})
        assert said.json()['model'] == 'org/name'


@pytest.mark.parametrize(
    'given, name, directory',
    [('runs/tiny', 'tiny', 'runs/tiny'), ('runs/tiny/config.gin', 'tiny', 'runs/tiny'), ('a=runs/b', 'a', 'runs/b'),
     ('org/a=runs/b', 'org/a', 'runs/b'), ('a=runs/lr=0.1', 'a', 'runs/lr=0.1'),
     ('=runs/lr=0.1', 'lr=0.1', 'runs/lr=0.1'),
     ('a=runs/b/config.gin', 'a', 'runs/b')],
)  # fmt: skip
def test_a_model_is_parted_at_the_first_equals_sign(given, name, directory):
    assert models.parse(given) == (name, directory)


def test_what_cannot_be_parted_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs' / 'lr=0.1').mkdir(parents=True)
    with pytest.raises(UserError, match=r'Write --model=lr_0.1=runs/lr=0.1$'):
        models.parse('runs/lr=0.1')
    assert models.parse('lr_0.1=runs/lr=0.1') == ('lr_0.1', 'runs/lr=0.1')  # the advice works
    with pytest.raises(UserError, match='a MODEL_DIR is missing: --model=a=runs/tiny'):
        models.parse('a=')


NOT_TEXT = {
    'prompt': ({'prompt': 'ab\udc80'}, 'prompt: holds the lone surrogate U+DC80 at character 3'),
    'prompts': ({'prompt': ['a', '\0']}, 'prompt: item 2 holds NUL at character 1'),
    'stop': ({'prompt': 'a', 'stop': '\ud800'}, 'stop: item 1 holds the lone surrogate'),
    'model': ({'prompt': 'a', 'model': '\ud800'}, 'model: holds the lone surrogate'),
    'a field': ({'prompt': 'a', '\ud800': 1}, 'this field is unknown'),
    'a long field': ({'prompt': 'a', 'x' * 100_000: 1}, 'this field is unknown'),
    'a long model': ({'prompt': 'a', 'model': 'm' * 100_000}, 'does not exist'),
    'chat': ({'messages': [{'role': 'user', 'content': '\ud83d'}]}, 'messages.0.content: holds the lone surrogate'),
    'a role': ({'messages': [{'role': '\ud83d', 'content': 'a'}]}, 'messages.0.role'),
}


def test_what_is_not_text_is_refused(served):
    import json

    with running(served) as site:
        for name, (body, message) in NOT_TEXT.items():
            path = '/v1/chat/completions' if 'messages' in body else '/v1/completions'
            content = json.dumps({'model': 'base'} | body)
            answer = http.post(f'{site.url}{path}', content=content, headers={'Content-Type': 'application/json'})
            assert answer.status_code == (404 if name == 'a long model' else 400), (name, answer.text)
            assert message in answer.json()['error']['message'] and len(answer.text) < 1500, (name, answer.text)
        whole = {'model': 'base', 'prompt': '\ud83d\ude42', 'max_tokens': 1}  # a pair is one character
        assert http.post(f'{site.url}/v1/completions', content=json.dumps(whole),
                          headers={'Content-Type': 'application/json'}).status_code == 200  # fmt: skip
        ids = {'model': 'base', 'max_tokens': 1}
        assert http.post(f'{site.url}/v1/completions', json=ids | {'prompt': [5] * 62}).status_code == 200
        long = http.post(f'{site.url}/v1/completions', json=ids | {'prompt': [5] * 100})  # one prompt, not 100
        assert 'has 101 tokens including BOS; the context length is 64' in long.json()['error']['message']
        beginning = http.post(f'{site.url}/v1/completions', json=ids | {'prompt': None, 'temperature': 0}).json()
        assert beginning['usage']['prompt_tokens'] == 1
