"""Every command of the README and every notebook works. CI runs the two set-up commands themselves."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from palm_jax.command_line import split_flags
from palm_jax.configuration.load import load

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```bash\n(.*?)```', README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith('python -m')]
INLINE = [c for c in re.findall(r'`(python -m [^`]+)`', README) if 'palm_jax.train' in c]
TABLE = re.findall(r'^\| [^|]+ \| (.*--gin.*) \|$', README, re.MULTILINE)


def run(command, cwd=ROOT):
    arguments = shlex.split(command)
    assert arguments[0] == 'python'
    return subprocess.run(
        [sys.executable, *arguments[1:]],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_ci_finds_both_set_up_commands():
    for name in ('train', 'test'):
        assert re.search(rf'^<!-- command: {name} -->\n```bash\npython3 -m venv', README, re.MULTILINE)


@pytest.mark.parametrize('command', [*COMMANDS, *INLINE])
def test_a_training_command_is_understood(command, base_and_table, small_tasks):
    explained, task = (
        command if '--explain' in command else f'{command} --explain',
        re.search(r'gin/tasks/(\w+)', command),
    )
    if 'finetune' in command:
        given = base_and_table[1:] if task else base_and_table
        explained += ''.join(f' --gin.{name}={value}' for name, value in given)
    result = run(explained, small_tasks[task[1]] if task else ROOT)
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


def test_files_that_are_named_exist():
    named = re.findall(r'\]\((?!http)([^)#]+)\)', README) + re.findall(r'gin/[\w/]+\.gin', README)
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_doctor_finds_this_machine_well():
    result = run('python -m palm_jax.doctor')
    assert result.returncode == 0, result.stdout
    assert 'all is well' in result.stdout and 'jax 0.' in result.stdout


def test_the_vocabulary_tool(tmp_path):
    result = run(f'python -m tools.train_vocabulary --output={tmp_path / "v.model"} --size=420 --train_files=README.md')
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
    outputs = str([cell.outputs for cell in notebook.cells if cell.cell_type == 'code'])
    assert 'image/png' in outputs and {'pretrain_tiny': '⟦', 'finetune': "'unittest': 0."}[path.stem] in outputs
