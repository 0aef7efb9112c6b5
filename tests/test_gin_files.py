"""Every gin file is exercised: entries and parts build, large models by their shapes."""

import functools
import math
from pathlib import Path

import jax
import pytest

from palm_jax.configuration.compose import compose
from palm_jax.configuration.load import load
from palm_jax.parameters import path_name
from palm_jax.training import setup, state
from tests.support.paths import ROOT

ENTRIES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / 'gin').glob('*.gin'))
PARTS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / 'gin').glob('*/*.gin'))
PARAMETERS = {
    'tiny': (2e6, 8e6),
    'base': (140e6, 160e6),
    '400m': (380e6, 420e6),
    '1b': (0.95e9, 1.1e9),
    '2b': (1.9e9, 2.1e9),
    '8b': (8_632_012_800, 8_632_012_800),
    '62b': (62_495_662_080, 62_495_662_080),
    '540b': (540_356_474_880, 540_356_474_880),
}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def build(files, *flags):
    return load('loop.train', files, flags).build('loop.train')


@functools.cache
def num_params(model):
    shapes = jax.eval_shape(lambda rng: state.init_params(model, rng), jax.random.key(0))
    return sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize('entry', ENTRIES)
def test_an_entry_builds_and_begins_with_its_command(entry, base_and_table):
    arguments = build([entry], *(base_and_table if 'finetune' in entry else ()))
    assert num_params(arguments['model']) > 1e6
    first = (ROOT / entry).read_text().splitlines()[0]
    assert first == f'# python -m palm_jax.train --gin_file={entry}'


@pytest.mark.parametrize('part', PARTS)
def test_a_part_says_what_it_provides_and_fits_an_entry(part, base_and_table, small_tasks, monkeypatch):
    assert (ROOT / part).read_text().startswith('# Provides: ')
    folder = Path(part).parent.name
    if Path(part).stem in small_tasks:
        monkeypatch.chdir(small_tasks[Path(part).stem])
        arguments = build(['gin/finetune_lora.gin', part], base_and_table[1])
        assert arguments['data'].num_sequences > 1 and arguments['data'].example()
        assert next(arguments['data'].validation(2))
        assert num_params(arguments['model']) > 1e6
    elif folder in ('heads', 'peft', 'methods') or part == 'gin/models/pretrained.gin':
        shared = ('labelled', 'generation', 'tables')  # which other heads include
        later = [] if Path(part).stem in shared else [part]
        table = (
            ('TRAIN_FILES', str(Path(base_and_table[0][1]).with_suffix('.conll')))
            if 'tagging' in part
            else base_and_table[0]
        )
        model = build(['gin/finetune_lora.gin', *later], table, base_and_table[1])['model']
        assert (model.head is None) == (Path(part).stem in ('text_to_text', 'dialogue', 'embedding'))
    elif folder == 'studies':
        roots = {'ablation': ('ARMS', "{'plain': []}"), 'search': ('SPACE', "{'LORA_RANK': [2, 4]}")}
        roots['continual'] = 'TASKS', "{'first': [], 'second': []}"
        given = ('STUDY_DIR', 'runs/study'), ('FLAGS', "['--gin_file=gin/finetune_lora.gin']"), roots[Path(part).stem]
        root = f'{Path(part).stem}.{Path(part).stem.title()}'
        assert load(root, [part], given).build(root)['metric'] == 'accuracy'
    elif part == 'gin/runs/imported.gin':
        sizes = ('VOCABULARY_SIZE', '4096'), ('TASK_FEATURE_LENGTHS', "{'targets': 64}")
        assert num_params(build([part], ('MODEL_DIR', 'run'), base_and_table[1], *sizes)['model']) > 1e6
    elif part == 'gin/runs/loaded.gin':
        overlay = compose([part], {'LOADED_MODEL_DIR': base_and_table[1][1]})
        configuration = load('loop.train', ['gin/finetune_lora.gin'], base_and_table, overlay)
        assert configuration.build('loop.train')['model'].arch.d_model == 192
    else:
        build(['gin/pretrain_tiny.gin', part])


@pytest.mark.parametrize('part', sorted((ROOT / 'gin/peft').glob('*.gin')), ids=lambda path: path.stem)
def test_every_way_to_fine_tune_trains_something_of_a_model_with_a_head(part, base_and_table):
    arguments = build(['gin/finetune_lora.gin', str(part.relative_to(ROOT))], *base_and_table)
    model, selection = setup.adapt(*(arguments[name] for name in ('model', 'methods', 'trainable', 'trainable_layers')))
    init = functools.partial(state.init_state, model, arguments['optimizer'], trainable=selection)
    shapes = jax.eval_shape(init, jax.random.key(0))
    paths = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes.params)}
    assert {'head/kernel', 'head/bias'} <= paths
    assert (len(paths) == 2) == (part.stem == 'head_only')


@pytest.mark.parametrize('size', PARAMETERS)
def test_a_size_has_its_parameters(size):
    vocabulary = '256000' if size in ('8b', '62b', '540b') else '4096' if size == 'tiny' else '32000'
    arguments = build(['gin/pretrain_tiny.gin', f'gin/models/{size}.gin'], ('VOCABULARY_SIZE', vocabulary))
    low, high = PARAMETERS[size]
    assert low <= num_params(arguments['model']) <= high


def test_every_size_is_under_test():
    assert {p.stem for p in (ROOT / 'gin/models').glob('*.gin')} - {'palm', 'pretrained'} == set(PARAMETERS)


def test_another_size_keeps_what_is_said_of_the_arithmetic():
    arch = build(['gin/pretrain_base.gin', 'gin/models/1b.gin'])['model'].arch
    assert (arch.dtype, arch.remat, arch.d_model) == ('bfloat16', 'minimal', 2048)
