"""examples/customer_service after deployment: its customers, and every command of the walk in the README."""

import json
import re
import shlex
import socket
import subprocess
import sys

import pytest

pytest.importorskip('fastapi', reason='the server is not installed: pip install "palm_jax[serve]"')
from examples import tables
from examples.customer_service import customers
from palm_jax.errors import UserError
from palm_jax.monitoring import content_filter
from palm_jax.monitoring.content_filter import ContentFilter
from palm_jax.monitoring.request_log import RequestLog, read
from palm_jax.serving.models import Loader, ServedModel
from tests.support.kinds import every_kind
from tests.support.paths import ROOT
from tests.support.programs import run_here
from tests.support.server import running

README = (ROOT / 'examples/customer_service/README.md').read_text()


def test_customers_ask_a_server_and_correct_it(micro, tmp_path):
    model = every_kind(micro, 'classes')['classes']
    rules = ContentFilter(content_filter.load(ROOT / 'examples/customer_service/rules.json', Loader().scorer))
    texts = [f'question {number}' for number in range(8)]
    answers = [next(iter(found)) for found in model.predict(texts)]
    labels = [('no' if answer == 'yes' else 'yes') if i % 2 else answer for i, answer in enumerate(answers)]
    rows = [*zip(texts, labels, strict=True), ('you idiot', 'yes'), ('not asked', 'no')]
    tables.write(tmp_path / 'asked.csv', ('text', 'label'), rows)
    log = RequestLog(tmp_path / 'kept.db')
    flags = [f'--questions={tmp_path / "asked.csv"}', '--count=9']
    with running({'intents': ServedModel('intents', model)}, log=log, rules=rules) as site:
        asked = run_here(customers.__name__, *flags, f'--server={site.url}')
        assert asked.returncode == 0, asked.stderr
        with pytest.raises(UserError, match=r"refuses /v1/classify: The model 'other' does not exist"):
            customers.main([*flags, f'--server={site.url}/', '--model=other'])
    log.close()
    with pytest.raises(UserError, match=r'does not answer: .*Start it: palm-jax serve'):
        customers.main([*flags, f'--server={site.url}'])
    assert 'asked      9 questions: 4 answers were right, 4 were corrected' in asked.stdout
    assert 'refused    1 by a rule of the server' in asked.stdout
    kept = {row.input: row for row in read(tmp_path / 'kept.db', 'intents')}
    assert [kept[text].label for text in texts] == labels
    assert [kept[text].rating for text in texts] == ['up', 'down'] * 4


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


def walk(ports):
    """The commands of the README, from the data to the audit log, on other ports and with more steps."""
    make, train, *_ = re.search(r'```bash\n(.*?)```', README, re.DOTALL)[1].splitlines()
    train += ' --gin.TRAIN_STEPS=200 --gin.LEARNING_RATE=1e-2 --gin.TASK_FEATURE_LENGTHS="{\'inputs\': 48}"'
    after = README.partition('## After deployment')[2]
    blocks = re.findall(r'```\n(.*?)```', after, re.DOTALL)
    for line in [make, train, *(line for block in blocks for line in block.splitlines())]:
        command = line.replace('TRAIN_STEPS=60', 'TRAIN_STEPS=200 --gin.LEARNING_RATE=4e-3')
        for old, new in ports.items():
            command = command.replace(f':{old}', f':{new}').replace(f'--port={old}', f'--port={new}')
        if ' serve ' in command and '--port' not in command:
            command = command.replace(' --keep', f' --port={ports[8000]} --keep')
        if 'customers' in command and '--server' not in command:
            command += f' --server=http://127.0.0.1:{ports[8000]}'
        command = re.sub('^palm-jax', 'python -m palm_jax', command)
        yield re.sub('^python', shlex.quote(sys.executable), command)


@pytest.mark.slow
def test_the_walk_of_the_readme(base, tmp_path):
    """In its order and in one shell, on a base that knows hardly more than bytes."""
    for name in ('gin', 'examples'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'tiny').symlink_to(base)
    ports = {8000: free_port(), 8001: free_port()}
    script = '\n'.join(['trap "kill \\$(jobs -p)" EXIT', 'set -e', *walk(ports)])
    result = subprocess.run(['bash', '-c', script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    for what in (
        'asked      30 questions: ', 'Much drift: ', 'promoted   significantly better', 'asked      60 questions: ',
        'again; rolled back from runs/intents/round_0001/challenger', 'corrected answers: ', 'content_filter',
    ):  # fmt: skip
        assert what in result.stdout, (what, result.stdout[-5000:])
    assert re.search(r'insults +\w+ +refused +intents +1 ', result.stdout), result.stdout[-2000:]
    (line,) = (json.loads(line) for line in result.stdout.splitlines() if '"rule": "insults"' in line)
    assert line['action'] == 'refused' and (tmp_path / 'why.html').is_file()
