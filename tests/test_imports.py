"""The walls of the house: who imports whom, and where TensorFlow may be."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / 'palm_jax'
# room: what it may import of the project.
ALLOWED = {
    'models': {'models', 'errors'},
    'inference': {'models', 'inference', 'parameters', 'errors'},
    'peft': {'peft', 'models', 'parameters', 'errors'},
    'training': {'models', 'peft', 'training', 'partitioning', 'processes', 'parameters', 'errors'},
    'measures': {'measures', 'errors'},
    'reports': {'reports', 'measures', 'training', 'models', 'inference', 'partitioning', 'errors'},
    'data': {'data', 'measures', 'errors'},
    'exchange': {'exchange', 'data', 'models', 'peft', 'training', 'inference', 'partitioning', 'errors'},
    'serving': {'serving', 'trained', 'data', 'inference', 'errors', '__version__'},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f'{node.module}.{alias.name}' for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize('room', ALLOWED)
def test_a_room_imports_only_what_it_may(room):
    for path in (ROOT / room).rglob('*.py'):
        for name in imports(path):
            parts = name.split('.')
            if parts[0] == 'palm_jax':
                assert parts[1] in ALLOWED[room], f'{path.name} imports {name}'
            assert room in ('data', 'exchange') or parts[0] not in (
                'tensorflow',
                'seqio',
                't5',
                'tensorflow_datasets',
                'gin',
            ), path


@pytest.mark.parametrize(
    'module', ['palm_jax.training.loop', 'palm_jax.train', 'palm_jax.data.batches', 'tools.benchmark']
)
def test_no_tensorflow_until_tokens_are_made(module):
    code = f'import sys, {module}; assert not {{"tensorflow", "seqio", "torch"}} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT.parent)


@pytest.mark.parametrize('program', ['train', 'eval', 'infer', 'serve', 'export', 'import_weights', 'doctor'])
def test_a_program_begins_before_jax_is_there(program):
    """What takes seconds is imported once `command_line.run` has given it its heap and watches for Ctrl-C."""
    code = f'import sys, palm_jax.{program}; assert not {{"jax", "numpy"}} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT.parent)


def test_the_package_itself_imports_the_standard_library_alone():
    code = (
        'import sys; before = set(sys.modules); import palm_jax; '
        'new = {name.partition(".")[0] for name in set(sys.modules) - before}; '
        'assert not new - {"palm_jax"} - set(sys.stdlib_module_names), new'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT.parent)


@pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='this torch has no compiler for GPUs')
def test_torchs_compiler_and_tensorflow_live_in_one_process():
    code = 'import palm_jax.exchange, tensorflow, triton, torch._dynamo'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT.parent)
