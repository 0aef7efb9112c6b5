"""Every command of the README and every notebook works. CI runs the two set-up commands themselves."""

import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from palm_jax.cli.command_line import split_flags
from palm_jax.cli.main import PROGRAMS
from palm_jax.configuration.load import load
from tests.support.paths import ROOT
from tests.support.programs import run_alone, run_here

README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```bash\n(.*?)```', README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith('python -m palm_jax.train')]
INLINE = [c for c in re.findall(r'`(python -m [^`]+)`', README) if 'palm_jax.train' in c]
TABLE = re.findall(r'^\| [^|]+ \| (.*--gin.*) \|$', README, re.MULTILINE)


def split(command):
    """The module and the arguments of `python -m module arguments` or `palm-jax program arguments`."""
    words = shlex.split(command)
    if words[0] == 'palm-jax':
        return f'palm_jax.cli.{PROGRAMS[words[1]][0]}', *words[2:]
    assert words[:2] == ['python', '-m']
    return tuple(words[2:])


def run(command, cwd=ROOT):
    """Runs a command in a process of its own."""
    return run_alone(*split(command), cwd=cwd)


def test_ci_finds_both_set_up_commands():
    for name in ('train', 'test'):
        assert re.search(rf'^<!-- command: {name} -->\n```bash\npython3 -m venv', README, re.MULTILINE)


@pytest.mark.parametrize('command', [*COMMANDS, *INLINE])
def test_a_training_command_is_understood(command, base_and_table, small_tasks, tmp_path):
    explained, task = (
        command if '--explain' in command else f'{command} --explain',
        re.search(r'gin/tasks/(\w+)', command),
    )
    if 'finetune' in command:
        given = base_and_table[1:] if task else base_and_table
        explained += ''.join(f' --gin.{name}={value}' for name, value in given)
    folder = small_tasks[task[1]] if task else tmp_path if 'notes/' in command else ROOT
    if folder == tmp_path:
        (folder / 'notes').mkdir()
        for i in range(30):
            (folder / 'notes' / f'{i}.txt').write_text(f'a note, number {i}\n' * 9)
        (folder / 'reviews.csv').write_text('text\n' + ''.join(f'review {i}\n' for i in range(40)))
    result = run_here(*split(explained), cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    assert '## parameters' in result.stdout


@pytest.mark.parametrize('cell', TABLE)
def test_a_binding_of_the_table_is_understood(cell, monkeypatch, base_and_table, small_tasks):
    monkeypatch.chdir(ROOT)
    flags = [part for part in re.findall(r'`([^`]+)`', cell) if part.startswith('--gin')]
    assert flags
    for flag in flags:
        rest, pairs = split_flags(shlex.split(flag))
        files = [argument.removeprefix('--gin_file=') for argument in rest]
        if cell in README.partition('## Fine-tune')[2]:
            names = {name for name, _ in pairs}
            given = [pair for pair in base_and_table if pair[0] not in names]
            if any(value.startswith('data/') for _, value in pairs):  # a public set in the place its file names
                task = next(value.split('/')[1] for _, value in pairs if value.startswith('data/'))
                monkeypatch.chdir(small_tasks[task])
            load('loop.train', ['gin/finetune_lora.gin', *files], [*given, *pairs]).build('loop.train')
        else:
            load('loop.train', ['gin/pretrain_tiny.gin', *files], pairs).build('loop.train')


def test_what_is_named_in_python_exists():
    names = set(re.findall(r'`(palm_jax\.[\w.]+)`', README))
    assert names
    for name in names:
        pkgutil.resolve_name(name)


def test_files_that_are_named_exist():
    named = re.findall(r'\]\((?!http)([^)#]+)\)', README) + re.findall(r'gin/[\w/]+\.gin', README)
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_doctor_finds_this_machine_well():
    result = run('palm-jax doctor')
    assert result.returncode == 0, result.stdout
    assert 'no problems found' in result.stdout and 'jax 0.' in result.stdout


def test_the_tasks_that_are_named_are_registered():
    import seqio

    from palm_jax.data.registry import public_tasks, tasks

    table = README.partition('Registered are, by')[2].partition('A seqio or t5 task')[0]
    names = [n for n in re.findall(r'`(\w+)`', table) if n != '--gin.MIXTURE_OR_TASK_NAME=']
    if not public_tasks.add_in_t5_format():
        names = [n for n in names if 'T5' not in next(line for line in table.splitlines() if f'`{n}`' in line)]
    assert len(names) > 25
    for name in names:
        assert tasks.parts(name), name
    assert sum(name.startswith('wiki40b_') for name in seqio.TaskRegistry.names()) == 41


def test_tokens_are_made_beforehand_and_verified(tmp_path):
    (tmp_path / 'text.txt').write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(2000)))
    command = f'palm-jax cache python_stdlib --gin.TRAIN_FILES={tmp_path}/text.txt --gin.VOCABULARY=bytes'
    for flags in ('', ' --verify'):
        result = run(command + flags)
        assert result.returncode == 0, result.stderr[-2000:]
        assert len(re.findall(r'tokens of 1 documents in .*', result.stdout)) == 2
    assert result.stdout.count('1 file(s) are as they were written') == 2
    refused = run_here('palm_jax.cli.cache', 'cldr_languages', '--gin.INITIAL_CHECKPOINT_PATH=nowhere')
    assert refused.returncode == 2 and 'Traceback' not in refused.stderr


def test_the_benchmark_of_data():
    result = run('python -m tools.benchmark data --vocabulary=bytes --documents=5 --steps=1 --length=64 --batch=2')
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r'the cache, packed at 64 +[\d,]+ tokens/s', result.stdout)
    assert 'as fast as tf.data tokenizes it alone' in result.stdout and 'without TensorFlow' in result.stdout


def test_the_vocabulary_tool(tmp_path):
    result = run(f'palm-jax vocabulary --output={tmp_path / "v.model"} --size=420 --train_files=README.md')
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / 'v.model').exists() and 'sentencepiece_420_' in result.stdout


def test_the_benchmark_tool():
    small = '--size=40m --batch=1 --length=32 --steps=2 --unroll=1'
    result = run(f'python -m tools.benchmark train {small}')
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r'palm_jax +\d+\.\dM', result.stdout) and 'MFU =' in result.stdout
    result = run(f'python -m tools.benchmark finetune {small} --methods=head_only')
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r'head_only +39,501 ', result.stdout) and re.search(r'full +46,\d+,\d+ .*1\.00×', result.stdout)


def test_the_benchmark_of_writing():
    result = run('python -m tools.benchmark decode --batches=2 --prompt=4 --tokens=3 --steps=1 --against=transformers')
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r'palm_jax, stored +2 ', result.stdout) and 'of bound' in result.stdout
    assert re.search(r'transformers +2 .*palm_jax, stored is \d+\.\d\d× as fast', result.stdout)
    result = run('python -m tools.benchmark serve --requests=4 --slots=2 --tokens=9 --steps=1')
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r'2 together +\d+ tokens/s, \d', result.stdout)


@pytest.mark.parametrize('path', sorted((ROOT / 'notebooks').glob('*.ipynb')), ids=lambda p: p.name)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv('PATH', f'{Path(sys.executable).parent}:/usr/bin:/bin')  # `!python` is this one
    notebook = nbformat.read(path, as_version=4)
    shorter = {'TRAIN_STEPS = 400': 'TRAIN_STEPS = 3', "'runs/notebook'": repr(str(tmp_path / 'run'))}
    first = next(cell for cell in notebook.cells if cell.cell_type == 'code')
    for old, new in shorter.items():
        assert old in first.source
        first.source = first.source.replace(old, new)
    NotebookClient(notebook, timeout=600, kernel_name='python3', resources={'metadata': {'path': str(ROOT)}}).execute()
    shown = {'pretrain_tiny': '⟦', 'finetune': "'unittest': 0.", 'use_a_model': 'model_int8.tflite'}
    outputs = str([cell.outputs for cell in notebook.cells if cell.cell_type == 'code'])
    assert 'image/png' in outputs and shown[path.stem] in outputs


def of(name):
    """The README's command of a name, for `--model` and config.gin of a model in this folder."""
    return re.search(rf'<!-- command: {name} -->\n```bash\n(.*?)\n```', README)[1]


def test_the_commands_that_use_a_model_work(tmp_path):
    """As they stand, one after the other, in a folder where runs/tiny is a model of some steps."""
    few = '--gin.TRAIN_STEPS=2 --gin.TASK_FEATURE_LENGTHS={"targets":64} --gin.MAX_NEW_TOKENS=4 --gin.PROMPTS=["def"]'
    text = tmp_path / 'text.txt'
    text.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(1500)))
    data = f'--gin.TRAIN_FILES={text} --gin.VOCABULARY=bytes'
    few = few.replace('"', '\\"')
    train = f'python -m palm_jax.train --gin_file=gin/pretrain_tiny.gin {data} {few}'
    made = run_here(*split(train), cwd=tmp_path)
    assert made.returncode == 0, made.stderr[-3000:]
    (tmp_path / 'prompts.txt').write_text('the square\nof 3 is\n')
    for name, said in (('infer', 'predicted  2 rows'), ('eval', '95% interval'), ('export', 'differ by at most')):
        result = run(of(name), tmp_path)
        assert result.returncode == 0 and said in result.stdout, (name, result.stderr[-3000:])
    assert len((tmp_path / 'written.jsonl').read_text().splitlines()) == 2
    assert (tmp_path / 'exported' / 'model.safetensors').exists() and (tmp_path / 'runs/tiny/eval.json').exists()
    command = of('serve').replace('8000', '0')  # whatever port is free here
    process = subprocess.Popen(
        [sys.executable, *shlex.split(command)[1:]], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        shown = next(line for line in process.stdout if 'chat page' in line)
        assert 'http://127.0.0.1:' in shown
    finally:
        process.terminate()
        process.wait(60)
