"""`palm-jax serve`: a base with an adapter on it, a classifier, a tagger and a chat model in one process."""

import contextlib
import json
import re
import shutil
import signal
import sqlite3
import time

import httpx
import pytest

from palm_jax.api import loading
from tests.support import http
from tests.support.programs import run_here
from tests.support.runs import finetune

pytest.importorskip('fastapi', reason='pip install "palm_jax[serve]"')


@pytest.fixture(scope='module')
def runs(made, classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp('served')
    (folder / 'words.conll').write_text(''.join(f'Ann{i} B-PER\nis O\nhere O\n\n' for i in range(60)))
    turns = [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'hello'}]
    (folder / 'chats.jsonl').write_text('\n'.join(json.dumps({'messages': turns}) for _ in range(40)))
    (folder / 'few.jsonl').write_text(json.dumps({'messages': turns}))
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 16}"
    chat = ('--gin_file=gin/heads/dialogue.gin', f'--gin.TRAIN_FILES={folder}/chats.jsonl',
            f'--gin.VALIDATION_FILES={folder}/few.jsonl', lengths)  # fmt: skip
    tags = ('--gin_file=gin/heads/tagging.gin', f'--gin.TRAIN_FILES={folder}/words.conll')
    shutil.copytree(classifier, folder / 'classes')
    for name, flags in (('tags', tags), ('chat', chat)):
        result = finetune(made, folder / name, *flags, table=None, steps=2)
        assert result.returncode == 0, result.stderr[-2000:]
    return folder


def test_every_kind_in_one_process(made, runs, forks, tmp_path):
    wanted = [made / 'base', runs / 'classes', runs / 'chat', f'tagger={runs}/tags']
    keep = f'--keep={tmp_path / "requests.db"}'
    process = forks.open('palm_jax.cli.serve', '--port=0', keep, *(f'--model={path}' for path in wanted))
    try:
        url, output = None, ''
        while url is None:
            line = process.stdout.readline()
            output += line
            assert line, output
            url = (found := re.search(r'chat page +(http://\S+?)/ ', line)) and found[1]
        end = time.monotonic() + 60
        while True:
            try:
                if http.get(f'{url}/ready').status_code == 200:
                    break
            except httpx.TransportError:
                assert time.monotonic() < end
                time.sleep(0.2)
        kinds = {m['id']: m['kind'] for m in http.get(f'{url}/v1/models').json()['data']}
        assert kinds == {'base': 'text', 'classes': 'classify', 'chat': 'chat', 'tagger': 'tag'}

        def ask(path, **body):
            answer = http.post(f'{url}{path}', json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            return answer.json()

        texts = ['number 4 is even', 'number 5 is odd']
        for row, said in zip(ask('/v1/classify', model='classes', input=texts)['data'],
                             loading.load(runs / 'classes').predict(texts), strict=True):  # fmt: skip
            assert row['probabilities'] == pytest.approx(said, abs=1e-5) and row['label'] == next(iter(said))
        found = ask('/v1/tag', model='tagger', input='Ann7 is here')['data'][0]['entities']
        assert found == loading.load(runs / 'tags').extract_entities(['Ann7 is here'])[0]
        messages = [{'role': 'user', 'content': 'hi'}]
        said = ask('/v1/chat/completions', model='chat', messages=messages, temperature=0, max_tokens=6)
        model = loading.load(runs / 'chat', MAX_NEW_TOKENS=6)
        assert said['choices'][0]['message']['content'] == model.generate([messages])[0]
        wrong = http.post(f'{url}/v1/classify', json={'model': 'classes', 'input': 'a', 'second_input': 'b'})
        assert wrong.status_code == 400 and 'single texts' in wrong.json()['error']['message']
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)  # uvicorn stops in order, then ends by the signal
    assert 'Traceback' not in process.stdout.read()
    assert [path.name for path in tmp_path.iterdir()] == ['requests.db']  # whole in one file, which may be copied
    with contextlib.closing(sqlite3.connect(tmp_path / 'requests.db')) as kept:
        assert kept.execute('SELECT count(*) FROM requests').fetchone()[0] >= 3


def test_adapters_share_the_arrays_of_their_base(made, runs):
    from palm_jax.serving import models

    served = models.load([str(made / 'base'), str(runs / 'chat'), f'{runs}/classes/config.gin'], models.Loader())
    base = served['base'].model.params
    for name in ('chat', 'classes'):
        params = served[name].model.params
        assert params['embed']['embedding'] is base['embed']['embedding']
        assert params['stack']['mlp']['in']['up'] is base['stack']['mlp']['in']['up']
        assert 'lora' in params['stack']['mlp']['in']


def test_mistakes_are_one_message(made):
    for flags, message in (
        (['--model=nothing'], 'nothing'),
        ([f'--model={made}/base', f'--model={made}/base'], 'Two models are called base'),
        ([f'--model={made}/base', '--slots=0'], '--slots: 0 must be a whole number of at least 1'),
        (['--places=2'], '--places is now called --slots'),
    ):
        result = run_here('palm_jax.cli.serve', *flags)
        assert result.returncode == 2 and message in result.stderr and 'Traceback' not in result.stderr, result.stderr
