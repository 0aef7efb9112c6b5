"""Every command of the README and of docs/ works, and every notebook. CI runs the two set-up commands themselves."""

import ast
import contextlib
import importlib.metadata
import pkgutil
import re
import shlex
import signal
import sys
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from palm_jax import api
from palm_jax.configuration.flags import split_flags
from palm_jax.configuration.load import load
from tests.support.interpreter import Interpreter
from tests.support.paths import ROOT
from tests.support.programs import run_alone, run_here
from tests.support.runs import MICRO
from tools.train_on_token_file import write_tokens

GENERATED = ROOT / 'docs' / 'reference' / 'bindings.md'
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES if path != GENERATED}
README = TEXTS['README.md']


def commands():
    """All commands of ```bash blocks, each once. Blocks without a language hold what cannot be run here (clusters)."""
    blocks = [block for text in TEXTS.values() for block in re.findall(r'```bash\n(.*?)```', text, re.DOTALL)]
    return list(dict.fromkeys(line for block in blocks for line in block.splitlines() if line.strip()))


TRAINING = [
    c for c in commands() if c.startswith(('python -m palm_jax.train', 'palm-jax train', 'palm-jax compile-for'))
]
SET_UP = [c for c in commands() if c.startswith('python3 -m venv')]
PROGRAMS = [c for c in commands() if c not in TRAINING + SET_UP]
# What runs a command that is not one of training: a test of this file.
RUN = {
    'palm-jax doctor': 'test_the_doctor_finds_this_machine_well',
    'palm-jax vocabulary': 'test_the_vocabulary_program',
    'palm-jax cache': 'test_tokens_are_made_beforehand_and_verified',
    'palm-jax inspect': 'test_a_task_is_inspected',
    'palm-jax bindings': 'test_bindings_are_listed',
    **{
        f'palm-jax {name}': 'test_the_commands_that_use_a_model_work'
        for name in ('infer', 'eval', 'export', 'serve', 'explain-prediction', 'drift', 'memorization')
    },
    'palm-jax checkpoint': 'test_the_commands_that_use_a_model_work',
}
TABLE = [
    pytest.param(cell, 'finetuning/' in name or 'methods/' in name, id=f'{Path(name).stem}: {cell}')
    for name, text in TEXTS.items()
    for cell in re.findall(r'^\| [^|]+ \| (.*--gin.*) \|$', text, re.MULTILINE)
    if '`--gin_file=`' not in cell  # a header
]


# Instead of the model of the tiny recipe, where a command or a notebook is run for what it does, not for how well.
SMALL = ' '.join(flag for flag in MICRO if flag.startswith('--gin.') and '{' not in flag)


def split(command):
    """The module and the arguments of `palm-jax program arguments` or `python -m module arguments`."""
    words = shlex.split(command)
    if words[0] == 'palm-jax':
        return 'palm_jax.cli.main', *words[1:]
    assert words[:2] == ['python', '-m']
    return tuple(words[2:])


def run(command, cwd=ROOT, **environment):
    """Runs a command in a process of its own."""
    return run_alone(*split(command), cwd=cwd, **environment)


def said(command, cwd=ROOT):
    """Runs a command in this process; returns what it prints."""
    result = run_here(*split(command), cwd=cwd)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def of(*start):
    """The only command of the pages that begins so."""
    (command,) = [command for command in PROGRAMS if shlex.split(command)[: len(start)] == list(start)]
    return command


def test_ci_finds_both_set_up_commands():
    for name in ('train', 'test'):
        assert re.search(rf'^<!-- command: {name} -->\n```bash\npython3 -m venv', README, re.MULTILINE)


def test_the_readme_is_short():
    assert README.count('\n') < 150


def test_every_command_is_run_by_a_test():
    for command in PROGRAMS:
        test = RUN[' '.join(command.split()[:2])]
        assert test in globals(), command
    assert set(SET_UP) <= set(re.findall(r'^python3 -m venv.*', README, re.MULTILINE))


@pytest.mark.parametrize('command', TRAINING)
def test_a_training_command_is_understood(command, base_and_table, small_tasks, tmp_path):
    explained = re.sub(r'^palm-jax compile-for --topology \S+', 'palm-jax train --explain --devices=3072', command)
    explained += '' if '--explain' in explained else ' --explain'
    for name, value in base_and_table:
        if f'--gin.{name}=' in command and 'README.md' not in command:
            explained += f' --gin.{name}={value}'
    for name in ('UNLABELLED_FILES', 'REPLAY_FILES'):
        if f'--gin.{name}=' in command:
            explained += f' --gin.{name}={base_and_table[0][1]}'
    folder = ROOT
    if task := re.search(r'gin/tasks/(\w+)', command):
        folder = small_tasks[task[1]]
    if 'notes/' in command:
        folder = tmp_path
        (folder / 'notes').mkdir()
        for i in range(30):
            (folder / 'notes' / f'{i}.txt').write_text(f'a note, number {i}\n' * 9)
        (folder / 'reviews.csv').write_text('text\n' + ''.join(f'review {i}\n' for i in range(40)))
    assert '## parameters' in said(explained, folder)


@pytest.mark.parametrize('cell, finetunes', TABLE)
def test_a_binding_of_a_table_is_understood(cell, finetunes, monkeypatch, base_and_table, small_tasks, tmp_path):
    monkeypatch.chdir(ROOT)
    parts = [part for part in re.findall(r'`([^`]+)`', cell) if part.startswith('--gin')]
    assert parts
    for part in parts:
        rest, pairs = split_flags(shlex.split(part))
        files = [argument.removeprefix('--gin_file=') for argument in rest]
        if finetunes:
            names = {name for name, _ in pairs}
            given = [pair for pair in base_and_table if pair[0] not in names]
            if any(value.startswith('data/') for _, value in pairs):  # a public set in the place its file names
                task = next(value.split('/')[1] for _, value in pairs if value.startswith('data/'))
                monkeypatch.chdir(small_tasks[task])
            load('loop.train', ['gin/finetune_lora.gin', *files], [*given, *pairs]).build('loop.train')
        else:
            load('loop.train', ['gin/pretrain_tiny.gin', *files], pairs).build('loop.train')


def test_python_blocks_are_python_and_name_what_exists():
    blocks = [block for text in TEXTS.values() for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL)]
    names = {name for text in TEXTS.values() for name in re.findall(r'`(palm_jax\.[\w.]+)`', text)}
    of_model = api.load.__annotations__['return']
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith('palm_jax'):
                names |= {f'{node.module}.{alias.name}' for alias in node.names}
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(('model.', 'api.')):
                is_model = ast.unparse(node.func).startswith('model.')
                names.add(f'palm_jax.api.{of_model + "." if is_model else ""}{node.func.attr}')
    assert len(names) > 5
    for name in names:
        pkgutil.resolve_name(name)


@pytest.mark.parametrize('page', TEXTS)
def test_files_that_are_named_exist(page):
    text, folder = TEXTS[page], (ROOT / page).parent
    for link in re.findall(r'\]\((?!http)([^)#]+)[^)]*\)', text):
        assert (folder / link).exists(), link
    roots = 'palm_jax|tests|gin|examples|docs|notebooks'
    for path in re.findall(rf'`((?:{roots})/[\w./]*)`', text) + re.findall(r'gin/[\w/]+\.gin', text):
        assert (ROOT / path).exists(), path


def test_the_doctor_finds_this_machine_well():
    shown = said(of('palm-jax', 'doctor'))
    assert 'no problems found' in shown and 'jax 0.' in shown
    flags = re.findall(r'^  · (--xla_gpu_\w+=\S*)$', shown, re.MULTILINE)
    assert len(flags) > 3 and 'flags for GPUs that jaxlib' in shown


def test_the_tasks_that_are_named_are_registered():
    import seqio

    from palm_jax.data.registry import public_tasks, tasks

    table = TEXTS['docs/data.md'].partition('These are registered, by')[2].partition('A seqio task or mixture')[0]
    names = [n for n in re.findall(r'`(\w+)`', table) if n != '--gin.MIXTURE_OR_TASK_NAME=']
    if not public_tasks.add_in_t5_format():
        names = [n for n in names if 'T5' not in next(line for line in table.splitlines() if f'`{n}`' in line)]
    assert len(names) > 25
    for name in names:
        assert tasks.parts(name), name
    assert sum(name.startswith('wiki40b_') for name in seqio.TaskRegistry.names()) == 41


def test_tokens_are_made_beforehand_and_verified(tmp_path):
    (tmp_path / 'text.txt').write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(2000)))
    plain, verify = (c for c in PROGRAMS if c.startswith('palm-jax cache'))
    assert verify == f'{plain} --verify'
    for command in (plain, verify):
        shown = said(f'{command} --gin.TRAIN_FILES={tmp_path}/text.txt --gin.VOCABULARY=bytes')
        assert len(re.findall(r'tokens of 1 documents in .*', shown)) == 2
    assert shown.count('1 file verified') == 2
    refused = run_here(*split('palm-jax cache cldr_languages --gin.INITIAL_CHECKPOINT_PATH=nowhere'))
    assert refused.returncode == 2 and 'Traceback' not in refused.stderr


def test_a_task_is_inspected(tmp_path):
    (tmp_path / 'text.txt').write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(2000)))
    own = f'--gin.TRAIN_FILES={tmp_path}/text.txt --gin.VOCABULARY=bytes --examples=1 --batches=1'
    shown = said(f'{of("palm-jax", "inspect", "python_stdlib")} {own}')
    assert any(mode in shown for mode in ('[NLU]', '[NLG]', '[S2S]'))


def test_the_benchmark_of_data():
    shown = said('python -m tools.benchmark data --vocabulary=bytes --documents=5 --steps=1 --length=64 --batch=2')
    assert re.search(r'cache, packed at 64 +[\d,]+ tokens/s', shown)
    assert 'times as fast as tokenization with tf.data' in shown and 'without TensorFlow' in shown


@pytest.mark.parametrize('command', [c for c in PROGRAMS if c.startswith('palm-jax bindings')])
def test_bindings_are_listed(command):
    name = 'LORA_RANK' if 'lora' in command else 'TRAIN_STEPS'
    assert name in said(command)


def test_the_vocabulary_program(tmp_path):
    command = of('palm-jax', 'vocabulary').replace('32000', '420').replace('my_folder', str(ROOT / 'CONTRIBUTING.md'))
    shown = said(command, tmp_path)
    assert (tmp_path / 'my.model').exists() and 'sentencepiece_420_' in shown


# Python imports a `sitecustomize` at the start of every process.
_BARE = """
from importlib.machinery import PathFinder

found = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition('.')[0] in {packages} else found(name, path, target)

PathFinder.find_spec = find_spec
"""


def needed_by(*names):
    """The distributions that some need, and those."""
    found, todo = set(), [Requirement(name) for name in names]
    while todo:
        wanted = todo.pop()
        if (key := (canonicalize_name(wanted.name), frozenset(wanted.extras))) in found:
            continue
        found.add(key)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # of another platform
            for needed in map(Requirement, importlib.metadata.requires(wanted.name) or ()):
                if not needed.marker or any(needed.marker.evaluate({'extra': e}) for e in (*wanted.extras, '')):
                    todo.append(needed)
    return {name for name, _ in found}


def bare_machine(folder):
    """A process that can import jax, flax, optax and orbax alone; so can those that it starts."""
    installed, ours = needed_by('jax', 'flax', 'optax', 'orbax-checkpoint'), {'palm_jax', 'tests', 'tools'}
    of_distributions = importlib.metadata.packages_distributions()
    lacked = {p for p, names in of_distributions.items() if installed.isdisjoint(map(canonicalize_name, names))} - ours
    assert {'gin', 'tqdm', 'packaging', 'seqio', 'tensorflow', 'torch'} <= lacked
    (folder / 'sitecustomize.py').write_text(_BARE.format(packages=sorted(lacked)))
    return Interpreter(path=[folder])


@pytest.fixture
def said_by_a_bare_machine(tmp_path):
    """Runs a program on a bare machine; returns what it prints."""
    with bare_machine(tmp_path) as bare:

        def said(command):
            result = bare.run(*split(command))
            assert result.returncode == 0, result.stderr[-2000:]
            return result.stdout

        yield said


SHAPE = '--size=tiny --batch=1 --length=32 --steps=2'


def test_the_benchmark_tool_on_a_bare_machine(said_by_a_bare_machine):
    training = said_by_a_bare_machine(f'python -m tools.benchmark train {SHAPE} --unroll=1 --profile')
    assert re.search(r'palm_jax +\d+\.\dM', training) and 'MFU =' in training
    table = training.partition('kernel\n')[2].splitlines()
    assert len(table) == 32 and table[-2].endswith('others') and table[-1].endswith('all')
    assert '--parts' in said_by_a_bare_machine('python -m tools.gpu_suite --help')


@pytest.mark.slow
def test_what_else_is_measured_on_a_bare_machine(said_by_a_bare_machine, tmp_path):
    said = said_by_a_bare_machine
    finetuning = said(f'python -m tools.benchmark finetune {SHAPE} --unroll=1 --methods=head_only')
    assert re.search(r'head_only +14,861 ', finetuning)
    assert re.search(r'full +\d,\d+,\d+ .*1\.00×', finetuning)
    decoding = said('python -m tools.benchmark decode --size=tiny --batches=1 --prompt=4 --tokens=3 --steps=1')
    assert re.search(r'palm_jax, stored +1 +\d+ MB float32 ', decoding)
    write_tokens(tmp_path / 'tokens.npy', 32 * 32)
    files = f'--tokens={tmp_path / "tokens.npy"} --model_dir={tmp_path / "run"}'
    assert 'validation loss 1' in said(f'python -m tools.train_on_token_file {files} {SHAPE}')


@pytest.mark.slow
def test_the_benchmark_of_writing():
    result = run(
        'python -m tools.benchmark decode --size=tiny --batches=2 --prompt=4 --tokens=3 --steps=1 '
        '--against=transformers --dtype=bfloat16'
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r'palm_jax, stored +2 +\d+ MB bfloat16 ', result.stdout) and 'of bound' in result.stdout
    assert re.search(r'transformers +2 .*palm_jax, stored is \d+\.\d\d× as fast', result.stdout)
    result = run('python -m tools.benchmark serve --size=tiny --requests=4 --slots=2 --tokens=9 --steps=1')
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r'2 in parallel +\d+ tokens/s, \d', result.stdout)
    result = run('python -m tools.benchmark pauses --size=tiny --prompt=100 --prefill_chunks=0,32 --tokens=2 --steps=1')
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r'whole( +[\d,]+){2} +[\d,]+–[\d,]+ +[\d,]+\n32 ', result.stdout)


EVERY_DAY = 'finetune.ipynb'  # what the others show are the commands of the README, which are run above and below


@pytest.mark.parametrize(
    'path',
    [
        pytest.param(path, id=path.name, marks=() if path.name == EVERY_DAY else pytest.mark.slow)
        for path in sorted((ROOT / 'notebooks').glob('*.ipynb'))
    ],
)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv('PATH', f'{Path(sys.executable).parent}:/usr/bin:/bin')  # `!python` is this one
    notebook = nbformat.read(path, as_version=4)
    text = tmp_path / 'text.txt'  # instead of the standard library, whose held-out part takes half a minute to read
    text.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(2000)))
    steps = r'TRAIN_STEPS = \d+'
    shorter = {steps: 'TRAIN_STEPS = 3', "'runs/notebook'": repr(str(tmp_path / 'run'))}
    pretrain = f'python -m palm_jax.train --gin_file=gin/pretrain_tiny.gin {SMALL} --gin.TRAIN_FILES={text} '
    if path.stem == 'finetune':  # of a base of three steps, instead of one that is downloaded
        shorter |= {"'runs/smollm2'": repr(str(tmp_path / 'base')), '%pip install .*\n': ''}
        said(f'{pretrain} --gin.TRAIN_STEPS=3 --gin.MODEL_DIR={tmp_path / "base"}')
        shorter |= {'palm-jax import .* ': 'ls '}
    else:
        shorter |= {'python -m .*pretrain_tiny.gin': pretrain}
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    for old, new in shorter.items():
        assert any(re.search(old, cell.source) for cell in cells)
        for cell in cells:
            cell.source = re.sub(old, lambda _, new=new: new, cell.source)
    for cell in cells:  # a table of some hundred lines
        cell.source = cell.source.replace('.splitlines()[::3]', '.splitlines()[::30]')
    NotebookClient(notebook, timeout=600, kernel_name='python3', resources={'metadata': {'path': str(ROOT)}}).execute()
    shown = {'pretrain_tiny': '⟦', 'finetune': "'unittest': 0.", 'use_a_model': 'model_int8.tflite'}
    outputs = str([cell.outputs for cell in cells])
    assert 'image/png' in outputs and shown[path.stem] in outputs


def test_the_commands_that_use_a_model_work(tmp_path, forks):
    """As they stand, one after the other, in a folder where runs/tiny is a model of some steps."""
    few = '--gin.TRAIN_STEPS=2 --gin.TASK_FEATURE_LENGTHS={"targets":64} --gin.PROMPTS=["def"]'
    text = tmp_path / 'text.txt'
    text.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(1500)))
    data = f'--gin.TRAIN_FILES={text} {SMALL}'
    few = few.replace('"', '\\"')
    said(f'python -m palm_jax.train --gin_file=gin/pretrain_tiny.gin {data} {few}', tmp_path)
    (tmp_path / 'prompts.txt').write_text('the square\nof 3 is\n')
    for name in ('before', 'after'):
        (tmp_path / f'{name}.txt').write_text(''.join(f'the {name} of {i}\n' for i in range(30)))
    for name, expected in (
        ('infer', 'predicted  2 of 2 rows'),
        ('eval', '95% interval'),
        ('export', 'differ by at most'),
        ('explain-prediction', 'completeness error'),
        ('drift', 'bits per byte'),
        ('inspect step', 'most surprising'),
        ('memorization', 'held out'),
    ):
        assert expected in said(of('palm-jax', *name.split()), tmp_path), name
    assert (tmp_path / 'runs/tiny/explanations.html').exists() and (tmp_path / 'runs/tiny/explanations.json').exists()
    assert len((tmp_path / 'predictions.jsonl').read_text().splitlines()) == 2
    assert (tmp_path / 'exported' / 'model.safetensors').exists() and (tmp_path / 'runs/tiny/eval.json').exists()
    for name in ('ls', 'show'):
        assert said(of('palm-jax', 'checkpoint', name), tmp_path)
    command = of('palm-jax', 'serve').replace('8000', '0')  # whatever port is free here
    process = forks.open(*split(command), cwd=tmp_path)
    try:
        shown = next(line for line in process.stdout if 'chat page' in line)
        assert 'http://127.0.0.1:' in shown
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
