"""A file in, a file out: the order, what is bad, what was begun."""

import json
import signal
import subprocess
import sys

import pytest

from palm_jax.api import predictions, trained_model
from palm_jax.errors import UserError
from tests.support.paths import ROOT
from tests.support.programs import run_here
from tests.support.runs import finetune
from tests.support.waiting import wait_until


def infer(*arguments):
    return run_here('palm_jax.cli.infer', *arguments)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope='module')
def classifier(made, tmp_path_factory):
    directory = tmp_path_factory.mktemp('classifier') / 'run'
    assert finetune(made, directory, steps=3).returncode == 0
    return directory


def test_every_row_is_answered_in_its_place(classifier, tmp_path):
    rows = [json.dumps({'id': i, 'text': f'number {i} is even'}) for i in range(40)]
    rows[7], rows[20] = '{"text": ', '{"txt": "x"}'
    (tmp_path / 'in.jsonl').write_text('\n'.join(rows))
    flags = ('--input', tmp_path / 'in.jsonl', '--output', tmp_path / 'out.jsonl', '--batch_size=16')
    result = infer(f'--gin_file={classifier}/config.gin', *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'predicted  38 rows, 2 with an error' in result.stdout and 'rows/s' in result.stderr
    lines = read(tmp_path / 'out.jsonl')
    assert [line.get('id') for line in lines] == [None if i in (7, 20) else i for i in range(40)]
    assert 'in.jsonl, line 8' in lines[7]['error'] and 'Did you mean txt?' in lines[20]['error']
    model = trained_model.load(classifier)
    for line, said in zip((lines[0], lines[39]), model.predict([lines[0]['text'], lines[39]['text']]), strict=True):
        assert line['probabilities'] == pytest.approx(said, abs=1e-5) and line['predicted'] == next(iter(said))
    again = infer(f'--gin_file={classifier}/config.gin', *flags)
    assert again.returncode == 2 and 'exists already' in again.stderr and 'Traceback' not in again.stderr


def test_what_was_begun_is_continued_and_what_it_depends_on_must_be_the_same(made, tmp_path, capsys):
    model = trained_model.load(made / 'base')
    (tmp_path / 'in.txt').write_text('\n'.join(f'the square of {i}' for i in range(11)))
    source, whole, cut = str(tmp_path / 'in.txt'), tmp_path / 'whole.jsonl', tmp_path / 'cut.jsonl'
    about = {'model': 'base'}
    assert predictions.write(model, source, str(whole), about, batch_size=4) == (11, 0)
    lines = whole.read_text().splitlines(keepends=True)
    (tmp_path / 'cut.jsonl.part').write_text(''.join(lines[:6]) + lines[6][:9])  # killed while it wrote
    (tmp_path / 'cut.jsonl.part.json').write_text(json.dumps({'model': 'base', 'input': source, 'rows': 11}))
    with pytest.raises(UserError, match=r"is of another run \(model 'base', now 'other'\)"):
        predictions.write(model, source, str(cut), {'model': 'other'}, batch_size=4)
    assert predictions.write(model, source, str(cut), about, batch_size=4) == (11, 0)
    assert 'resuming after row 6' in capsys.readouterr().out
    assert cut.read_text() == whole.read_text()  # drawn by number, however the rows are batched
    assert predictions.write(model, source, str(tmp_path / 'other.jsonl'), about, batch_size=11) == (11, 0)
    assert (tmp_path / 'other.jsonl').read_text() == whole.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['cut.jsonl', 'in.txt', 'other.jsonl', 'whole.jsonl']


def test_an_interrupted_command_is_continued_by_the_same_command(made, tmp_path):
    (tmp_path / 'in.txt').write_text('\n'.join(f'the square of {i}' for i in range(120)))
    part, output = tmp_path / 'out.jsonl.part', tmp_path / 'out.jsonl'
    flags = [f'--gin_file={made}/base/config.gin', f'--input={tmp_path}/in.txt', f'--output={output}', '--batch_size=1']
    flags.append('--gin.TEMPERATURE=0.0')  # flags are compared with those of the beginning
    command = [sys.executable, '-m', 'palm_jax', 'infer', *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: part.exists() and part.read_text().count('\n') >= 2, seconds=120)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and 'finished rows are kept' in errors and 'Traceback' not in errors, errors[
        -2000:
    ]
    assert 2 <= part.read_text().count('\n') < 120
    again = infer(*flags)
    assert again.returncode == 0 and 'resuming after row' in again.stdout, again.stderr[-2000:]
    assert len(read(output)) == 120


def test_mistakes_are_one_message(classifier, made, tmp_path):
    long = tmp_path / 'long.txt'
    long.write_text('short\n' + 'x' * 500 + '\n')
    model = trained_model.load(made / 'base')
    assert predictions.write(model, str(long), str(tmp_path / 'o.jsonl'), {}) == (1, 1)
    assert 'longer than the 64 tokens' in read(tmp_path / 'o.jsonl')[1]['error']
    config = f'--gin_file={classifier}/config.gin'
    for flags, message in (
        ([config, '--input=nothing.jsonl', '--output=o.jsonl'], "--input = 'nothing.jsonl': no such file"),
        ([config, f'--input={long}', f'--output={tmp_path}/no/o.jsonl'], 'there is no folder'),
        (['--gin_file=gin/finetune_lora.gin', f'--input={long}', '--output=o.jsonl'], 'name the config.gin'),
    ):
        result = infer(*flags)
        assert result.returncode == 2 and message in result.stderr and 'Traceback' not in result.stderr, result.stderr
