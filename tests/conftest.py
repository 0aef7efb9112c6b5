"""What all tests share: a cache of their own and a PaLM small enough for a unit test."""

import contextlib
import functools
import gc
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

from tests.support.compilation import add_fast_compilation

# Each process of pytest has a cache of its own. They all share one cache of compiled programs, as do the processes that
# tests start: the controller of pytest-xdist names it, and the workers inherit its environment.
os.environ['PALM_JAX_CACHE'] = os.environ.get('PALM_JAX_TEST_CACHE') or tempfile.mkdtemp(prefix='palm_jax_test_')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', f'{os.environ["PALM_JAX_CACHE"]}/compiled')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ['XLA_FLAGS'] = add_fast_compilation(os.environ.get('XLA_FLAGS', ''))
if any(importlib.util.find_spec(f'jax_cuda{version}_plugin') for version in (12, 13)):
    # Bit for bit on a GPU: no kernel that adds in any order; the cache keeps the kernels that the first process chose.
    os.environ['XLA_FLAGS'] += ' --xla_gpu_exclude_nondeterministic_ops=true'

with contextlib.suppress(ImportError):
    import triton  # noqa: F401 - loaded after TensorFlow, PyTorch's compiler crashes the process; tests load both

import jax
import numpy as np
import pytest

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.logs import show_logs
from palm_jax.models.palm import Architecture, PaLM
from tests.support.architectures import MICRO
from tests.support.forks import Forks
from tests.support.models import initial
from tests.support.once import made_once
from tests.support.paths import ROOT

gc.set_threshold(10_000, 10, 5)  # Python's 700 costs 5% of the time where JAX and PyTorch hold a million objects


@pytest.fixture(scope='session', autouse=True)
def logs_are_shown():
    """The package's log is printed as the programs print it; `caplog` sees it, too."""
    show_logs()
    logging.getLogger('palm_jax').propagate = True


def _bytes_used():
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


@pytest.fixture(scope='session')
def memory_limit():
    """Bytes that this process may use before it forgets what it has compiled; all packages together hold some 2 GB."""
    return SimpleNamespace(bytes=3e9)


@pytest.fixture(scope='module', autouse=True)
def forget_what_was_compiled(memory_limit):
    """Forgets compiled functions when they are too many; those of the next module are often the same.

    Every one holds memory, and memory maps, of which a process may have 65,530 on Linux; past them XLA crashes.
    """
    yield
    if not Path('/proc/self').exists():
        jax.clear_caches()
    elif _bytes_used() > memory_limit.bytes or Path('/proc/self/maps').read_bytes().count(b'\n') > 30_000:
        jax.clear_caches()
        memory_limit.bytes = max(memory_limit.bytes, _bytes_used() + 5e8)  # not after every module


# Modules of many or long tests. Started last, they would leave the other processes of pytest idle.
LONGEST = (
    'test_readme',
    'test_finetune',
    'test_train',
    'test_eval',
    'test_wrong_values',
    'test_processes',
    'test_serve',
    'test_tasks',
    'test_faults',
    'test_style',
    'test_harness',
    'test_app',
    'test_palm',
    'test_methods',
)


def pytest_collection_finish():
    """Leaves what is imported by now out of all garbage collections."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Puts the modules that take longest first; the order within a module stays."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope='session')
def forks():
    """Starts programs in processes of their own without importing JAX again."""
    with Forks() as forks:
        yield forks


@functools.cache
def _micro(seed, changes):
    model = PaLM(Architecture(**(MICRO | dict(changes))))
    return model, initial(model, seed)


@pytest.fixture
def micro():
    """Builds a micro model and its parameters; keywords change the architecture."""

    def build(seed: int = 0, **changes):
        model, params = _micro(seed, tuple(sorted(changes.items())))
        return model, jax.tree.map(lambda x: x, params)  # a tree of its own, which a test may change

    return build


@pytest.fixture(scope='session')
def base_and_table(tmp_path_factory):
    """gin flags for what fine-tuning asks for: a table, and a checkpoint as far as gin reads it (its JSON)."""
    folder = tmp_path_factory.mktemp('base_and_table')
    (folder / 'table.csv').write_text('text,label\n' + ''.join(f'text {i},{"ab"[i % 2]}\n' for i in range(40)))
    (folder / 'table.conll').write_text(''.join(f'Ann{i} B-PER\nis O\n\n' for i in range(40)))
    step = folder / 'base' / 'checkpoints' / '1'
    (step / 'state').mkdir(parents=True)
    (step / 'metadata').mkdir()
    arch = Architecture(vocab_size=4096, num_layers=4, d_model=192, num_heads=4, head_dim=48)
    metadata = CheckpointMetadata.of_model(arch, 'bytes').to_json()
    (step / 'metadata' / 'metadata').write_text(json.dumps(metadata))
    return ('TRAIN_FILES', str(folder / 'table.csv')), ('INITIAL_CHECKPOINT_PATH', str(folder / 'base'))


@pytest.fixture(scope='session')
def offline_tables(tmp_path_factory):
    """Puts every table of the offline tasks into the cache of this process; one process makes them for all."""
    from palm_jax import cache_directory
    from palm_jax.data.registry import offline

    def make(folder):
        for name in offline.TABLES:
            shutil.copy2(offline.table(name), folder)

    made = made_once(tmp_path_factory, 'offline_tables', make)
    shutil.copytree(made, cache_directory.cache_dir() / 'offline', dirs_exist_ok=True)


@pytest.fixture(scope='session')
def small_tasks(tmp_path_factory, offline_tables):
    """A folder by task of gin/tasks, with a small data/ of invented text in that task's own format."""
    folder, count = tmp_path_factory.mktemp('tasks'), 24
    rows = ''.join(f'"what about {i}?",{"ab"[i % 2]}\n' for i in range(count))
    reviews = ''.join(f"film {i} , `` good '' or \" bad \t{i % 2}\n" for i in range(count))
    conll = ''.join(f'Ann{i}\tB-person\nleft\tO\n\n' for i in range(count)) + f'{"x" * 200}\tO\n\n'  # fits nowhere
    characters = ''.join(f'女{i % 10}\tB-PER.NOM\n人1\tI-PER.NOM\n。0\tO\n{i % 10}0\tO\n\n' for i in range(count))
    qas = lambda i: [{'id': str(i), 'question': f'who {i}?', 'answers': [{'text': 'Ann', 'answer_start': 0}]}]  # noqa: E731
    squad = {'data': [{'paragraphs': [{'context': f'Ann {i}.', 'qas': qas(i)}]} for i in range(count)]}
    intents = {name: [[f'{name} {i}', 'ab'[i % 2]] for i in range(count)] for name in ('train', 'oos_train', 'val')}
    messages = [{'message': text} for text in ('知道吗？', '知道。', '谢谢', '不客气')]
    files = {
        'banking77': {'train.csv': f'text,category\n{rows}', 'test.csv': f'text,category\n{rows}'},
        'clinc150': {'data_imbalanced.json': json.dumps(intents)},
        'SST-2': {name: f'sentence\tlabel\n{reviews}' for name in ('train.tsv', 'dev.tsv')},
        'wnut17': {'train.conll': conll, 'dev.conll': conll},
        'weibo_ner': {'train.conll': characters, 'dev.conll': characters},
        'xquad': {'en.json': json.dumps(squad), 'zh.json': json.dumps(squad)},
        'e2e_nlg': {'devset.csv': 'mr,ref\n' + ''.join(f'"name[{i}], food[x]",It is {i}.\n' for i in range(count))},
        'tatoeba_en_zh': {'cmn.txt': ''.join(f'Hi {i}.\t嗨{i}。\n' for i in range(count))},
        'kdconv': {name: json.dumps([{'messages': messages}] * 3) for name in ('film_dev.json', 'film_test.json')},
    }
    for task, contents in files.items():
        (folder / 'data' / task).mkdir(parents=True)
        for name, text in contents.items():
            (folder / 'data' / task / name).write_text(text)
    tasks = (ROOT / 'gin' / 'tasks').glob('*.gin')
    return {path.stem: folder for path in tasks if path.stem != 'python_stdlib'}  # some need none of it


@pytest.fixture
def tokens():
    """int32 [2, 40] token ids of the micro vocabulary."""
    return np.random.default_rng(7).integers(3, MICRO['vocab_size'], (2, 40)).astype(np.int32)


@pytest.fixture
def batch(tokens):
    """Causal language modelling features of `tokens`, with some targets that do not count."""
    weights = np.ones_like(tokens)
    weights[0, 30:] = 0
    return {
        'decoder_input_tokens': np.pad(tokens, [(0, 0), (1, 0)])[:, :-1],
        'decoder_target_tokens': tokens,
        'decoder_loss_weights': weights,
    }
