"""/v1/embeddings in OpenAI's form, for every kind of model."""

import base64

import numpy as np
import pytest

from tests.support import http
from tests.support.server import running

TEXTS = ['a text', 'another', '中文']
WRONG = [
    ({'input': []}, 'a list of 1 to 1024 of either'),
    ({'input': 'a', 'dimensions': 3}, 'have 24 dimensions'),
    ({'input': ['a', 'x' * 200]}, 'Input 1 is longer than the 16 tokens of the model.'),
    ({'input': [1, 999]}, 'Token 999 is unknown: the vocabulary has'),
    ({'input': 'a', 'encoding_format': 'int8'}, 'encoding_format'),
]


@pytest.fixture
def site(kinds):
    with running(kinds) as site:
        yield site


def ask(site, **body):
    return http.post(f'{site.url}/v1/embeddings', json=body, timeout=60)


def test_every_kind_of_model_embeds_as_in_python(site, kinds):
    for name, served in kinds.items():
        answer = ask(site, model=name, input=TEXTS, user='me').json()
        assert (answer['object'], answer['model']) == ('list', name)
        assert [(row['object'], row['index']) for row in answer['data']] == [('embedding', i) for i in range(3)]
        vectors = [row['embedding'] for row in answer['data']]
        np.testing.assert_allclose(vectors, served.model.embed(TEXTS), atol=1e-6)
        count = sum(len(text.encode()) + 2 for text in TEXTS)
        assert answer['usage'] == {'prompt_tokens': count, 'total_tokens': count}


def test_base64_token_ids_and_one_text(site, kinds):
    expected = kinds['text'].model.embed(['a text'])[0]
    in_base64 = ask(site, model='text', input='a text', encoding_format='base64').json()['data'][0]['embedding']
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(in_base64), '<f4'), expected, atol=1e-6)
    ids = kinds['text'].model.data.vocabulary.encode('a text')
    for given in (ids, [ids]):
        answer = ask(site, model='text', input=given, dimensions=len(expected)).json()
        np.testing.assert_allclose(answer['data'][0]['embedding'], expected, atol=1e-6)


def test_openai_client_and_wrong_bodies(site, kinds):
    expected = kinds['classes'].model.embed(['a text'])[0]
    for body, message in WRONG:
        answer = ask(site, model='classes', **body)
        assert answer.status_code == 400 and message in answer.json()['error']['message'], answer.text
    openai = pytest.importorskip('openai')
    client = openai.OpenAI(base_url=f'{site.url}/v1', api_key='none')
    answer = client.embeddings.create(model='classes', input=['a text'])
    np.testing.assert_allclose(answer.data[0].embedding, expected, atol=1e-6)
