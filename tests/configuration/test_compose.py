"""gin text that programs write, and overlays of which only what has a use is applied."""

from pathlib import Path

import gin
import pytest

from palm_jax.configuration.compose import compose, render, select_used
from palm_jax.configuration.flags import split_flags
from palm_jax.configuration.load import load
from palm_jax.configuration.statements import GinText, Macro, Reference, read_flag, read_statements
from palm_jax.errors import UserError

ROOT = Path(__file__).parents[2]
TINY = 'gin/pretrain_tiny.gin'


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def read(text):
    return read_statements(GinText(text, 'text'))[0]


VALUES = [
    *(None, True, 3, 1e-3, 'a', 'it\'s "quoted"\\ \n', '~/a path', [], (), {}, (1,), (1, 'two'), ['a', ['b']]),
    {'targets': 256, 'inputs': None},
    *(Macro('NAME'), Reference('module.Class', True), Reference('module.function', False)),
    [Macro('NAME'), {'key': Reference('module.Class', True)}],
]


@pytest.mark.parametrize('value', VALUES, ids=repr)
def test_a_value_is_read_as_it_was_rendered(value):
    (statement,) = read(f'NAME = {render(value)}')
    assert statement.value == value and type(statement.value) is type(value)


def test_what_gin_cannot_say_is_refused():
    with pytest.raises(TypeError, match='has no text in gin'):
        render({'path': Path('a')})


def test_text_is_composed_of_files_and_bindings():
    assert compose(['gin/a.gin', 'gin/b.gin']) == "include 'gin/a.gin'\ninclude 'gin/b.gin'\n"
    text = compose([TINY], {'MODEL_DIR': "it's", 'TASK_FEATURE_LENGTHS': {'targets': 8}})
    effective = {statement.name: statement.value for statement in read(text)}
    assert (effective['MODEL_DIR'], effective['TASK_FEATURE_LENGTHS']) == ("it's", {'targets': 8})
    assert effective['TRAIN_STEPS'] == 400


OVERLAY = """
DIRECTORY = 'run'
LABELS = @source.labels()
source.labels.path = %DIRECTORY
source.architecture.path = %DIRECTORY
"""


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('STEPS = 5', []),
        ('LABELS = None', ['DIRECTORY', 'LABELS', 'source.labels.path']),
        ('table.Table.names = %LABELS', ['DIRECTORY', 'LABELS', 'source.labels.path']),
        ('model.Model.arch = @source.architecture()', ['DIRECTORY', 'source.architecture.path']),
        ('source.architecture.dtype = 1', ['DIRECTORY', 'source.architecture.path']),
    ],
)
def test_of_an_overlay_what_has_a_use_is_selected(text, expected):
    assert [statement.name for statement in select_used(read(OVERLAY), read(text))] == expected


def build(*arguments):
    configuration = load('loop.train', *arguments)
    return configuration, configuration.build('loop.train')


def test_an_overlay_overrides_the_first_file_and_nothing_else(tmp_path, base_and_table):
    later = tmp_path / 'later.gin'
    later.write_text('BATCH_SIZE = 3\n')
    values = {'BATCH_SIZE': 2, 'SEED': 7, 'TRAIN_STEPS': 9, 'NOT_HERE': 1, 'LOADED_MODEL_DIR': base_and_table[1][1]}
    overlay = compose(['gin/runs/loaded.gin'], values)
    configuration, arguments = build([TINY, str(later)], [('TRAIN_STEPS', '5')], overlay)
    assert (arguments['seed'], arguments['batch_size'], arguments['total_steps']) == (7, 3, 5)
    assert not {'NOT_HERE', 'LABELS', 'pretrained.labels.path'} & configuration.effective.keys()
    kept = tmp_path / 'config.gin'
    kept.write_text(configuration.text)
    again, _ = build([str(kept)], [])
    assert again.text == configuration.text


def test_a_loaded_run_takes_labels_architecture_and_vocabulary_from_its_checkpoint(base_and_table):
    (_, table), (_, base) = base_and_table
    overlay = compose(['gin/runs/loaded.gin'], {'LOADED_MODEL_DIR': base})
    flags = [('TRAIN_FILES', 'not/there.csv'), ('INITIAL_CHECKPOINT_PATH', 'not/there')]
    with pytest.raises(UserError, match='not/there'):  # these metadata have no labels
        build(['gin/finetune_lora.gin'], flags, overlay)
    configuration, arguments = build(['gin/finetune_lora.gin'], [('TRAIN_FILES', table), *flags[1:]], overlay)
    assert arguments['initial_checkpoint'] == 'not/there' and arguments['model'].arch.d_model == 192
    assert gin.query_parameter('pretrained.labels.path') and 'pretrained.labels.path' in configuration.effective


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        ('', ''),
        ("''", ''),
        (' ', ' '),
        ('{7}', '{7}'),
        ('{question} {a b}', '{question} {a b}'),
        ('{Review Text}', '{Review Text}'),
        ('{v1.2-x}: {y}', '{v1.2-x}: {y}'),
        ("{'a': 1}", {'a': 1}),
        ("['a', 'b']", ['a', 'b']),
    ],
)
def test_a_flag_is_the_text_as_typed_or_a_value_of_gin(value, expected):
    statement, text = read_flag('NAME', value)
    assert statement.value == expected == read(text)[0].value
    assert split_flags([f'--gin.NAME={value}'])[1] == [('NAME', value)]


def test_an_empty_flag_is_a_text_where_that_has_a_meaning(base_and_table):
    files = ['gin/finetune_lora.gin', 'gin/heads/tagging.gin']
    effective = load('loop.train', files, [*base_and_table, ('WORD_SEPARATOR', '')]).effective
    assert effective['WORD_SEPARATOR'].value == ''
    for name in ('TRAIN_STEPS', 'MODEL_DIR', 'VALIDATION_FILES'):
        with pytest.raises(UserError, match=f'--gin.{name}=: the value is missing'):
            load('loop.train', files, [*base_and_table, (name, '')])
