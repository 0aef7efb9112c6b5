"""The server, asked by OpenAI's own client and by worse ones."""

import asyncio
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import openai
import pytest

from palm_jax.api.trained_model import TrainedModel
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.inference.generate import Sampler
from palm_jax.serving.limits import Limits
from palm_jax.serving.models import ServedModel
from tests.support import http
from tests.support.server import alone, running, slowed
from tests.support.waiting import wait_until

PROMPTS = ['def f(x):', 'import os', 'a', 'class Foo: pass', 'naïve ▁ 中文', 'x = 1']


def client(site, **options):
    return openai.OpenAI(base_url=f'{site.url}/v1', api_key='none', max_retries=0, **options)


def test_openais_client_gets_what_the_model_writes_alone(served):
    with running(served) as site:
        api = client(site)
        assert {model.id for model in api.models.list()} == {'base', 'adapter'}
        for name in served:
            expected = [alone(served, name, prompt) for prompt in PROMPTS]
            said = api.completions.create(model=name, prompt=PROMPTS, max_tokens=12, temperature=0)
            assert [choice.text for choice in said.choices] == expected
            assert said.usage.completion_tokens <= 12 * len(PROMPTS) and said.usage.prompt_tokens > len(PROMPTS)
        # Delta by piece it is the same text.
        pieces = list(
            api.completions.create(
                model='base', prompt=PROMPTS[0], max_tokens=12, temperature=0, stream=True,
                stream_options={'include_usage': True},
            )
        )  # fmt: skip
        assert len(pieces) > 2 and pieces[-1].usage.completion_tokens == 12
        assert ''.join(c.text for piece in pieces for c in piece.choices) == alone(served, 'base', PROMPTS[0])
        assert pieces[-2].choices[0].finish_reason == 'length'


def test_seeds_samples_stops_and_log_probabilities(served):
    with running(served) as site:
        api = client(site)
        ask = {'model': 'base', 'prompt': 'abc', 'max_tokens': 16}
        drawn = api.completions.create(**ask, temperature=1.5, seed=5, n=3)
        again = api.completions.create(**ask, temperature=1.5, seed=5, n=2)
        texts = [choice.text for choice in drawn.choices]
        assert texts[:2] == [choice.text for choice in again.choices] and len(set(texts)) == 3
        greedy = alone(served, 'base', 'abc', 16)
        stop = greedy[4:6]
        for stream in (False, True):
            said = api.completions.create(**ask, temperature=0, stop=[stop, 'never'], stream=stream)
            pieces = list(said) if stream else [said]
            assert ''.join(p.choices[0].text for p in pieces) == greedy[: greedy.index(stop)]
            assert pieces[-1].choices[0].finish_reason == 'stop'
        told = api.completions.create(**ask, temperature=0, logprobs=3).choices[0].logprobs
        assert len(told.tokens) == 16 and all(len(top) == 3 for top in told.top_logprobs)
        assert told.token_logprobs[0] == max(told.top_logprobs[0].values()) and told.text_offset[0] == 0
        (own,) = served['base'].model.completions(['abc'], Sampler(max_tokens=16, temperature=0.0))[0]
        assert told.token_logprobs == pytest.approx(own.logprobs, abs=1e-4)


def test_a_chat(served):
    with running(served) as site:
        api = client(site)
        messages = [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Hello'}]
        ask = {'model': 'base', 'messages': messages, 'max_completion_tokens': 8, 'temperature': 0}
        said = api.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
        shown = 'system: Be brief.\nuser: Hello\nassistant:'
        assert said.choices[0].message.content == alone(served, 'base', shown, 8).lstrip()
        assert len(said.choices[0].logprobs.content[0].top_logprobs) == 2
        pieces = list(api.chat.completions.create(**ask, stream=True))
        assert pieces[0].choices[0].delta.role == 'assistant' and pieces[-1].choices[0].finish_reason
        assert ''.join(p.choices[0].delta.content for p in pieces).lstrip() == said.choices[0].message.content


WRONG = {
    'no such model': ({'model': 'bse', 'prompt': 'a'}, 404, 'Did you mean base?'),
    'no prompt': ({'model': 'base'}, 400, 'prompt: this field is required'),
    'a text for a number': ({'model': 'base', 'prompt': 'a', 'max_tokens': '7'}, 400, 'max_tokens'),
    'unknown': (
        {'model': 'base', 'prompt': 'a', 'temprature': 1},
        400,
        'temprature: this field is unknown. Did you mean temperature?',
    ),
    'what is not honoured': ({'model': 'base', 'prompt': 'a', 'presence_penalty': 1.0}, 400, 'presence_penalty'),
    'too long': ({'model': 'base', 'prompt': 'x' * 64}, 400, 'the context length is 64 tokens'),
    'unknown token': ({'model': 'base', 'prompt': [5, 9999]}, 400, 'Token 9999 is unknown'),
    'too many at once': (
        {'model': 'base', 'prompt': ['a'] * 20, 'n': 2},
        400,
        '40 texts in one request; at most 32 are allowed',
    ),
    'no header': ({'model': 'base', 'prompt': 'a'}, 400, 'Content-Type: application/json'),
    'no JSON': (b'{"model":', 400, 'JSON'),
    'too large': (b'[' + b' ' * 70_000, 413, 'larger than 65,536 bytes'),
}


def test_errors_have_openais_shape(served):
    with running(served, Limits(body_bytes=1 << 16)) as site:
        for name, (body, status, message) in WRONG.items():
            content = body if isinstance(body, bytes) else json.dumps(body)
            headers = {} if name == 'no header' else {'Content-Type': 'application/json'}
            answer = http.post(f'{site.url}/v1/completions', content=content, headers=headers, timeout=60)
            assert answer.status_code == status, (name, answer.text)
            assert message in answer.json()['error']['message'], (name, answer.text)
        with pytest.raises(openai.NotFoundError, match='does not exist'):
            client(site).chat.completions.create(model='x', messages=[{'role': 'user', 'content': 'a'}])
        head = http.post(f'{site.url}/v1/classify', json={'model': 'base', 'input': 'a'})
        assert head.status_code == 404 and 'is for text' in head.json()['error']['message']
        assert http.get(f'{site.url}/nothing').json()['error']['message'] == 'Not Found'


def test_a_key_is_asked_for(served):
    with running(served, Limits(token='secret')) as site:
        for key, status in (('wrong', 401), ('secretx', 401), ('', 401), ('secret', 200)):
            answer = http.get(f'{site.url}/v1/models', headers={'Authorization': f'Bearer {key}'} if key else {})
            assert answer.status_code == status
        assert http.get(f'{site.url}/health').status_code == 200 and http.get(f'{site.url}/').status_code == 200


@pytest.mark.parametrize('count', [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_hundreds_at_once_are_answered_as_one_by_one(served, count):
    async def ask_all(site):
        async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as http:

            async def ask(number):
                prompt = PROMPTS[number % len(PROMPTS)]
                body = {
                    'model': ('base', 'adapter')[number % 2],
                    'prompt': prompt,
                    'max_tokens': 4 + number % 3,
                    'temperature': 0,
                }
                answer = await http.post(f'{site.url}/v1/completions', json=body)
                return body, answer

            return await asyncio.gather(*map(ask, range(count)))

    with running(served, slots=16, max_waiting=2000) as site:
        expected = {(name, prompt): alone(served, name, prompt, 6) for name in served for prompt in PROMPTS}
        for body, answer in asyncio.run(ask_all(site)):
            assert answer.status_code == 200, answer.text
            said, whole = answer.json()['choices'][0]['text'], expected[body['model'], body['prompt']]
            whole = whole if '\ufffd' not in whole else None  # half a character at the end depends on where it is cut
            assert whole is None or whole.startswith(said)
        assert (site.engine.num_active, site.engine.num_waiting) == (0, 0)
        counted = http.get(f'{site.url}/metrics').text
        assert f'palm_jax_requests_total{{route="/v1/completions",status="200"}} {count}.0' in counted


def test_too_many_are_told_when_to_come_again(served):
    async def ask_all(site):
        async with httpx.AsyncClient(timeout=60) as http:
            body = {'model': 'base', 'prompt': 'a', 'max_tokens': 50, 'temperature': 0}
            return await asyncio.gather(*(http.post(f'{site.url}/v1/completions', json=body) for _ in range(30)))

    with running(served, slots=1, max_waiting=2) as site:
        answers = asyncio.run(ask_all(site))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused and len(refused) < 30 and all(answer.headers['retry-after'] == '1' for answer in refused)
        assert all(answer.json()['error']['type'] == 'rate_limit_error' for answer in refused)


def test_a_client_that_leaves_frees_its_place(served):
    body = json.dumps({'model': 'base', 'prompt': 'a', 'max_tokens': 60, 'temperature': 0})
    with running(served, slots=1) as site:
        slowed(site.engine, 0.3)
        for stream in (False, True):
            content = body if not stream else body[:-1] + ', "stream": true}'
            with socket.create_connection(('127.0.0.1', site.port)) as left:
                head = f'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n'
                left.sendall(f'{head}Content-Type: application/json\r\n\r\n{content}'.encode())
                wait_until(lambda: site.engine.num_active == 1)
            wait_until(lambda: site.engine.num_active == 0, seconds=2.5)  # to the end it takes 15 × 0.3 s


def test_a_slow_client_waits_alone(served):
    with (
        running(served, Limits(body_seconds=1.0)) as site,
        socket.create_connection(('127.0.0.1', site.port), timeout=20) as slow,
    ):
        slow.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"model"')
        said = client(site).completions.create(model='base', prompt='a', max_tokens=3, temperature=0)
        assert said.choices[0].finish_reason
        assert b' 408 ' in slow.recv(4096)


def test_an_answer_that_takes_too_long_ends(served):
    with running(served, Limits(seconds=0.5)) as site:
        slowed(site.engine, 0.2)
        with pytest.raises(openai.APIStatusError, match='took too long') as error:
            client(site).completions.create(model='base', prompt='a', max_tokens=60, temperature=0)
        assert error.value.status_code == 504
        wait_until(lambda: site.engine.num_active == 0)


def test_what_runs_is_finished_before_the_server_stops(served):
    with running(served) as site:
        slowed(site.engine, 0.05)
        pieces = client(site).completions.create(model='base', prompt='a', max_tokens=40, temperature=0, stream=True)
        said = [next(pieces).choices[0].text]
        site.server.should_exit = True
        said += [piece.choices[0].text for piece in pieces]
        assert ''.join(said) == alone(served, 'base', 'a', 40)
        site.thread.join(30)
        assert not site.thread.is_alive()


def test_a_broken_engine_says_so(served):
    with running(served) as site:
        for model in site.engine._models.values():
            model._params = None
        with pytest.raises(openai.InternalServerError, match='engine has failed'):
            client(site).completions.create(model='base', prompt='a')
        wait_until(lambda: http.get(f'{site.url}/health').status_code == 500)  # its thread ends after the answer
        assert http.get(f'{site.url}/ready').status_code == 503


class Failing(ExtendedVocabulary):
    """Bytes that raise an error when they are decoded after an exclamation mark."""

    def decode(self, ids):
        text = super().decode(ids)
        if len(text) > 1 and '!' in text:
            raise IndexError('no such piece')
        return text


def test_a_text_that_fails_ends_alone(served):
    """The others are answered as before, and so is the next request."""
    base = served['base'].model
    data = SimpleNamespace(vocabulary=Failing(Bytes(), 0), length=64, labels=())
    model = ServedModel('base', TrainedModel(base.model, base.params, data, ''))
    wrong = {'model': 'base', 'prompt': 'a', 'max_tokens': 40, 'temperature': 2, 'seed': 2, 'n': 16}
    right = {'model': 'base', 'prompt': PROMPTS[0], 'max_tokens': 12, 'temperature': 0}
    expected = alone(served, 'base', PROMPTS[0])
    assert '!' not in expected
    with running({'base': model}, slots=8) as site:
        for _ in range(2):
            with ThreadPoolExecutor() as pool:
                ask = lambda body: http.post(f'{site.url}/v1/completions', json=body, timeout=60)  # noqa: E731
                failed, *others = pool.map(ask, [wrong, right, right, right])
            assert failed.status_code == 500 and failed.json()['error']['type'] == 'server_error'
            assert [answer.json()['choices'][0]['text'] for answer in others] == [expected] * 3
        streamed = http.post(f'{site.url}/v1/completions', json=wrong | {'stream': True}, timeout=60)
        assert '"server_error"' in streamed.text and '[DONE]' not in streamed.text
        assert http.get(f'{site.url}/health').status_code == 200
        wait_until(lambda: site.engine.num_active + site.engine.num_waiting == 0)
