"""The walls of the house: which room imports which, and where TensorFlow may be."""

import importlib.util
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.source import PACKAGE, imports, modules, room_of

EVERYWHERE = {
    *(
        'characters',
        'errors',
        'evenly_spaced',
        'bounds',
        'json_files',
        'logs',
        'progress_bar',
        'run_directory',
        'special_ids',
        'whole_words',
        'wording',
        '',
    )
}
# room: the rooms of the project that it may import.
ALLOWED = {
    'models': {'models'},
    'peft': {'peft', 'models', 'parameters'},
    'inference': {'inference', 'models', 'parameters'},
    'metrics': {'metrics'},
    'labels': {'labels', 'metrics'},
    'training': {'job', 'training', 'checkpoint_metadata', 'peft', 'models', 'metrics', 'partitioning', 'parameters'},
    'explanations': {'explanations', 'labels', 'metrics', 'models'},
    'reports': {'reports', 'explanations', 'labels', 'training', 'inference', 'models', 'metrics', 'partitioning'},
    'data/readers': {'data/readers', 'job'},
    'data/vocabulary': {'data/vocabulary'},
    'data/supervised': {'data/supervised', 'data/readers', 'data/vocabulary', 'labels', 'metrics'},
    'data/augmentation': {'data/augmentation', 'data/readers', 'metrics'},
    'data/registry': {
        *('data/registry', 'data/supervised', 'data/readers', 'data/vocabulary'),
        'metrics',
        'cache_directory',
    },
    'data/pretraining': {
        *('data/pretraining', 'data/registry', 'data/supervised', 'data/readers', 'data/vocabulary'),
        *('metrics', 'cache_directory', 'locks', 'pieces'),
    },
    'compilation': {'compilation', 'training', 'models'},
    'configuration': {'configuration', '__version__'},
    'exchange': {
        *(
            'exchange',
            'checkpoint_metadata',
            'configuration',
            'api',
            'predictors',
            'data/vocabulary',
            'data/registry',
            'training',
            'peft',
            'inference',
        ),
        'models',
        'partitioning',
    },
    'api': {
        'fusion',
        *(
            'api',
            'explanations',
            'locks',
            'pieces',
            'checkpoint_metadata',
            'configuration',
            'predictors',
            'data/readers',
            'data/registry',
        ),
        'training',
        'peft',
        'inference',
        'models',
        'partitioning',
        'parameters',
    },
    'predictors': {'predictors', 'explanations', 'labels', 'data/readers', 'training', 'inference', 'metrics'},
    'fusion': {'fusion', 'parameters'},
    'microscope': {'microscope', 'predictors', 'training', 'inference', 'peft', 'metrics', 'data/readers'},
    'fairness': {'fairness', 'labels', 'predictors'},
    'probing': {'probing', 'predictors', 'labels', 'metrics'},
    'monitoring': {'monitoring', 'locks', 'predictors', 'reports', 'inference', 'metrics'},
    'retuning': {
        *('retuning', 'monitoring', 'api', 'predictors', 'data/readers', 'data/supervised', 'labels', 'metrics'),
    },
    'selection': {
        *('selection', 'api', 'predictors', 'data/readers', 'training', 'labels', 'models'),
    },
    'synthesis': {
        *('synthesis', 'api', 'predictors', 'data/readers', 'data/pretraining', 'training', 'inference'),
    },
    'studies': {'studies', 'configuration', 'reports', 'training'},
    'serving': {'serving', 'monitoring', 'api', 'predictors', 'inference', '__version__'},
}
# TensorFlow takes seconds to load: one folder, and one module that gives our objectives to other people's pipelines.
# (`exchange/compiled.py` writes TensorFlow's own formats, on request.)
MAY_IMPORT_TENSORFLOW = (
    *('data/registry/', 'data/pretraining/seqio_preprocessors.py', 'exchange/compiled.py'),
    'exchange/runner.py',  # a program that is copied beside an exported model
)
LIGHT_PROGRAMS = ('train', 'eval', 'infer', 'serve', 'export', 'import_weights', 'doctor')
TENSORFLOW = {'tensorflow', 'tensorflow_text', 'tensorflow_datasets', 'seqio', 't5'}


@pytest.mark.parametrize('room', ALLOWED)
def test_a_room_imports_only_what_it_may(room):
    for path in modules(room):
        for name in imports(path):
            if name.split('.')[0] == 'palm_jax':
                assert room_of(name) in ALLOWED[room] | EVERYWHERE, f'{path.name} imports {name}'


def test_every_room_has_walls():
    rooms = {path.relative_to(PACKAGE).parts[0] for path in modules() if path.parent != PACKAGE} - {'data', 'cli'}
    rooms |= {f'data/{path.name}' for path in (PACKAGE / 'data').iterdir() if (path / '__init__.py').exists()}
    assert rooms == set(ALLOWED)


def test_one_folder_imports_tensorflow():
    for path in modules():
        if not path.relative_to(PACKAGE).as_posix().startswith(MAY_IMPORT_TENSORFLOW):
            assert not TENSORFLOW & {name.split('.')[0] for name in imports(path)}, path


def test_only_the_configuration_imports_gin():
    for path in modules():
        if path.parent.name != 'configuration' and path.name != 'public_tasks.py':  # t5's preprocessors carry bindings
            assert 'gin' not in {name.split('.')[0] for name in imports(path)}, path


@pytest.mark.parametrize(
    'module', ['palm_jax.training.loop', 'palm_jax.train', 'palm_jax.data.pretraining.dataset', 'tools.benchmark']
)
def test_no_tensorflow_until_tokens_are_made(module):
    code = f'import sys, {module}; assert not {{"tensorflow", "seqio", "torch"}} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


@pytest.mark.parametrize('module', ['train', 'cli.main', *(f'cli.{name}' for name in LIGHT_PROGRAMS)])
def test_a_program_begins_before_jax_is_there(module):
    """What takes seconds is imported once `command_line.run` has set the allocator up and watches for Ctrl-C."""
    code = f'import sys, palm_jax.{module}; assert not {{"jax", "numpy"}} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_the_package_itself_imports_the_standard_library_alone():
    code = (
        'import sys; before = set(sys.modules); import palm_jax; '
        'new = {name.partition(".")[0] for name in set(sys.modules) - before}; '
        'assert not new - {"palm_jax"} - set(sys.stdlib_module_names), new'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


@pytest.mark.skipif(importlib.util.find_spec('triton') is None, reason='this torch has no compiler for GPUs')
def test_torchs_compiler_and_tensorflow_live_in_one_process():
    code = 'import palm_jax.exchange, tensorflow, triton, torch._dynamo'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_no_test_module_imports_another():
    """What several need is in tests/support."""
    tests = ROOT / 'tests'
    for path in tests.rglob('*.py'):
        for name in imports(path):
            room = name.split('.')[1:2]
            assert not name.startswith('tests.') or room in (['support'], ['programs']), f'{path} imports {name}'
