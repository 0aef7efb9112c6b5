"""gin that does not bite: each mistake is one message with the place and the nearest right name."""

import re
from pathlib import Path

import pytest

from palm_jax.configuration import record
from palm_jax.configuration.flags import split_flags
from palm_jax.configuration.load import load
from palm_jax.configuration.types import fits
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory
from tests.support.paths import ROOT

TINY = 'gin/pretrain_tiny.gin'


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def build(*flags, files=(TINY,)):
    _, pairs = split_flags(flags)
    configuration = load('loop.train', files, pairs)
    return configuration, configuration.build('loop.train')


FLAGS = {
    'misspelt macro': ('--gin.TRIAN_STEPS=5', r'TRIAN_STEPS.*Did you mean TRAIN_STEPS\?'),
    'the name in Python': ('--gin.base=runs/tiny', r'no macro is called base. Did you mean INITIAL_CHECKPOINT_PATH\?'),
    'the name elsewhere': ('--gin.lr=1', r'no macro is called lr. Did you mean LEARNING_RATE\?'),
    'text for a number': ('--gin.TRAIN_STEPS=abc', 'TRAIN_STEPS.*must be a whole number.*abc'),
    'fraction for a whole number': ('--gin.TRAIN_STEPS=2.5', 'must be a whole number'),
    'number for a text': ('--gin.MODEL_DIR=7', 'MODEL_DIR.*must be a text'),
    'truth for a number': ('--gin.LEARNING_RATE=True', 'must be a number'),
    'misspelt parameter': ('--gin.palm.Architecture.num_kv_heds=1', r'Did you mean num_kv_heads\?'),
    'misspelt part': ('--gin.plam.Architecture.num_kv_heads=1', r'Did you mean palm.Architecture\?'),
    'misspelt choice': ('--gin.palm.Architecture.norm=rmsnrm', r'Did you mean rmsnorm\?'),
    'misspelt reference': ('--gin.OPTIMIZER=@optimizers.adamm()', r'Did you mean optimizers.adam'),
    'part not in use': ('--gin.optimizers.muon.momentum=0.5', 'has no effect.*optimizers.muon'),
    'undefined macro': ('--gin.TRAIN_STEPS=%STEPS', '%STEPS is not defined'),
    'no value': ('--gin.TRAIN_STEPS', 'needs a value'),
    'broken value': ('--gin.TASK_FEATURE_LENGTHS={"targets": }', 'not a gin value'),
    'impossible value': ('--gin.palm.Architecture.num_kv_heads=3', 'Possible: 1, 2, 4'),
}


@pytest.mark.parametrize('flag, message', FLAGS.values(), ids=FLAGS)
def test_a_wrong_flag(flag, message):
    with pytest.raises(UserError, match=f'(?s){message}') as error:
        build(flag)
    assert len(str(error.value).splitlines()) < 24
    if 'Possible' not in message and 'needs a value' not in message:
        assert 'command line, --gin.' in str(error.value)


FILES = {
    'unquoted path': ('MODEL_DIR = runs/mine', r"line 2.*MODEL_DIR = 'runs/mine'"),
    'missing include': ("include 'gin/modelz/base.gin'", r'line 2.*Did you mean gin/models/base.gin\?'),
    'unquoted include': ('include gin/models/base.gin', "line 2.*include 'gin/models/base.gin'"),
    'misspelt macro': ('TRAIN_STEP = 5', r'line 2.*nothing uses.*Did you mean TRAIN_STEPS\?'),
    'misspelt parameter': ('loop.train.total_step = 5', r'line 2.*Did you mean total_steps\?'),
    'missing module': ('import no_such_module', 'line 2.*no_such_module.*looked for in the working directory'),
    'text for a number': ("TRAIN_STEPS = '5'", 'line 2.*must be a whole number'),
    'open bracket': ('TRAIN_STEPS = (5', 'line 2'),
    'no statement': ('TRAIN_STEPS 5', 'line 2'),
}


@pytest.mark.parametrize('line, message', FILES.values(), ids=FILES)
def test_a_wrong_line_in_a_file(tmp_path, line, message):
    path = tmp_path / 'mine.gin'
    path.write_text(f"include '{TINY}'\n{line}\n")
    with pytest.raises(UserError, match=f'(?s)mine.gin, {message}'):
        build(files=[str(path)])


FUNCTIONS = {
    'RULES = [@rules_for_load.known()]': r'takes functions, .*: write @rules_for_load\.known without \(\)',
    'RULES = [(@rules_for_load.known(), 2.0)]': r'takes functions, .*: write @rules_for_load\.known without \(\)',
    'RULES = @rules_for_load.known': r'must be a list of .*: write RULES = \[@rules_for_load\.known\]',
    'TRANSITION_RULES = [@rules_for_load.known()]': r'takes functions, .*: write @rules_for_load\.known without',
}


@pytest.mark.parametrize('line, message', FUNCTIONS.items())
def test_a_function_that_is_called_where_it_is_meant_itself(tmp_path, monkeypatch, line, message):
    (tmp_path / 'rules_for_load.py').write_text('def known(text, label):\n    return True\n')
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / 'mine.gin'
    path.write_text(
        f"from __gin__ import dynamic_registration\nimport rules_for_load\ninclude '{TINY}'\n"
        f"include 'gin/heads/classification.gin'\ninclude 'gin/methods/rules.gin'\n{line}\n"
    )
    with pytest.raises(UserError, match=f'mine.gin, line 6: {line.split()[0]} .*{message}'):
        build(files=[str(path)])


def test_missing_files_and_parts_name_the_entry_files():
    with pytest.raises(UserError, match=r'Did you mean gin/pretrain_tiny.gin\?'):
        build(files=['gin/pretrain_tinny.gin'])
    with pytest.raises(UserError, match=r'a part, not a whole run.*gin/pretrain_base\.gin'):
        build(files=['gin/models/base.gin'])


def test_plain_strings_and_paths_need_no_quotes():
    configuration, arguments = build('--gin.MODEL_DIR=runs/a b,c.d', '--gin.TRAIN_STEPS', '77')
    assert arguments['model_dir'] == 'runs/a b,c.d' and arguments['total_steps'] == 77
    assert configuration.effective['MODEL_DIR'].location.startswith('command line')


def test_later_files_and_flags_win_and_a_replaced_part_keeps_its_bindings():
    _, arguments = build('--gin.WEIGHT_DECAY=0.3', files=[TINY, 'gin/optim/muon.gin'])
    assert arguments['optimizer'].update is not None
    _, arguments = build('--gin.SCHEDULE=@schedules.constant()', '--gin.schedules.constant.learning_rate=0.5')
    assert float(arguments['optimizer'].schedule(3)) == 0.5


def test_a_macro_that_nothing_in_use_reads_is_refused():
    with pytest.raises(UserError, match='WEIGHT_DECAY has no effect'):
        build('--gin.WEIGHT_DECAY=0.3', files=[TINY, 'gin/optim/adamw.gin', 'gin/optim/adafactor.gin'])


def test_the_record_reads_back_as_the_same_configuration(tmp_path):
    configuration, arguments = build('--gin.TRAIN_STEPS=33')
    (tmp_path / 'config.gin').write_text(configuration.text)
    again, arguments_again = build(files=[str(tmp_path / 'config.gin')])
    assert arguments_again['model'] == arguments['model'] and arguments_again['total_steps'] == 33
    assert record.difference(configuration.text, again.text) == ''


READ = {'train': {'rows': 9, 'sha256': 'a1'}, 'validation': {'rows': 1, 'sha256': 'b1'}}


def keep(model_dir, configuration, accept_changes=False, before=None, now=READ):
    of_run = record.Record(RunDirectory(model_dir), configuration.text, accept_changes)
    of_run.check(before, now)
    of_run.keep()


def test_a_directory_of_another_run_stops_and_shows_the_difference(tmp_path):
    first, _ = build()
    keep(tmp_path / 'run', first, accept_changes=False)
    longer, _ = build('--gin.TRAIN_STEPS=9999')
    keep(tmp_path / 'run', longer, accept_changes=False)
    other, _ = build('--gin.LEARNING_RATE=0.5')
    keep(tmp_path / 'refused', first, accept_changes=False)
    keep(tmp_path / 'refused', other, accept_changes=False)  # the first one has left nothing
    (tmp_path / 'run' / 'metrics.jsonl').write_text('{"step": 1}\n')
    with pytest.raises(UserError, match=r'(?s)LEARNING_RATE.*\+.*0.5.*--accept_changes'):
        keep(tmp_path / 'run', other, accept_changes=False)
    keep(tmp_path / 'run', other, accept_changes=True)
    assert (tmp_path / 'run' / 'versions.json').read_text().startswith('{')
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'):
        keep(tmp_path / 'file' / 'run', other, accept_changes=False)


@pytest.mark.parametrize(
    'changed',
    [
        f'MODEL_DIR = "{"runs/" + "x" * 150}"\n',
        f'PROMPTS = {["a prompt that is long " * 5] * 9}\n',
        'loop.train.total_steps = 7\nloop.Periods.log = 3\nKEEP_EVERY = 4\n',
        "# a comment\nTASK_FEATURE_LENGTHS = {\n    'targets':\n        256,\n}\n",  # another line of the same value
    ],
)
def test_a_record_compares_values_not_lines(changed):
    configuration, _ = build()
    assert record.difference(configuration.text, configuration.text + changed, record.MAY_CHANGE) == ''


def test_other_data_stop_a_run_and_are_shown(tmp_path, caplog):
    configuration, _ = build()
    more = READ | {'train': {'rows': 10, 'sha256': 'a2'}}
    keep(tmp_path, configuration, before=None)  # a checkpoint of a version that did not say
    keep(tmp_path, configuration, before=READ)
    config = (tmp_path / 'config.gin').read_text()
    shown = '-training data: 9 rows, sha256 a1\n+training data: 10 rows, sha256 a2\n'
    other, _ = build('--gin.LEARNING_RATE=0.5')
    with pytest.raises(UserError, match=f'holds a run of other data:\n{re.escape(shown)}.*--accept_changes'):
        keep(tmp_path, other, before=READ, now=more)  # no checkpoint or metrics: the configuration does not count
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
    with pytest.raises(UserError, match=rf'(?s)another configuration:.*LEARNING_RATE.*{re.escape(shown)}'):
        keep(tmp_path, other, before=READ, now=more)
    assert (tmp_path / 'config.gin').read_text() == config
    keep(tmp_path, other, before=READ, now=more, accept_changes=True)
    assert shown.strip() in caplog.text and 'LEARNING_RATE = 0.5' in caplog.text


@pytest.mark.parametrize(
    'value, hint, expected',
    [
        (1, float, True),
        (True, int, False),
        (None, int | None, True),
        ([1, 2], tuple[int, ...], True),
        ([[0, 1]], tuple[tuple[int, int], ...], True),
        ([[0, 'x']], tuple[tuple[int, int], ...], False),
        ({'a': 1}, dict[str, int], True),
        ({'a': 'b'}, dict[str, int], False),
        ('x', object, False),
    ],
)
def test_types(value, hint, expected):
    assert fits(value, hint) is expected


def test_what_a_swapped_out_part_was_made_of_is_swapped_out_with_it(base_and_table, tmp_path):
    tagged = [('TRAIN_FILES', str(Path(base_and_table[0][1]).with_suffix('.conll'))), base_and_table[1]]
    configuration = load('loop.train', ['gin/finetune_lora.gin', 'gin/heads/tagging.gin'], tagged)
    # the data's table, which nothing names any more, keeps its bindings in silence, and the record leaves them out
    assert 'labelled_text.LabelledTable.kind' in configuration.effective
    configuration.build('loop.train')
    assert 'labelled_text.LabelledTable' not in configuration.text and 'POOLING' not in configuration.text
    (tmp_path / 'config.gin').write_text(configuration.text)
    again, _ = build(files=[str(tmp_path / 'config.gin')])
    assert record.difference(configuration.text, again.text) == ''


def test_a_parameter_that_one_side_binds_to_its_default_is_no_difference():
    configuration, _ = build()
    old = configuration.text.replace('CLIP_NORM = 1.0\n', '').replace(
        'optimizers.adafactor.clip_norm = %CLIP_NORM\n', ''
    )
    assert 'clip_norm' not in old and record.difference(old, configuration.text) == ''
    other, _ = build('--gin.CLIP_NORM=0.5')
    assert record.difference(old, other.text) == '+optimizers.adafactor.clip_norm = %CLIP_NORM'
    assert record.difference(other.text, configuration.text) == '-CLIP_NORM = 0.5\n+CLIP_NORM = 1.0'
    inlined = configuration.text.replace('clip_norm = %CLIP_NORM', 'clip_norm = 1.0')
    assert record.difference(inlined, configuration.text) == ''


def test_a_macro_of_a_part_that_is_not_included_names_the_part():
    with pytest.raises(
        UserError, match=r'LORA_RANK; it is in gin/peft/lora.gin. Add e.g. --gin_file=gin/peft/lora.gin'
    ):
        load('loop.train', [TINY], [('LORA_RANK', '3')])


def test_methods_that_are_added_do_not_replace_each_other_in_silence(base_and_table):
    files = ['gin/finetune_lora.gin', 'gin/methods/r_drop.gin', 'gin/methods/fgm.gin']
    both = '[@r_drop.RDrop(), @fgm.FGM()]'
    with pytest.raises(UserError, match=r'fgm.gin, line 6: LOSS_WRAPPERS would replace that of .*r_drop') as error:
        load('loop.train', files, base_and_table)
    assert f'--gin.LOSS_WRAPPERS="{both}"' in str(error.value)
    with pytest.raises(UserError) as error:  # in the order in which they work together, whatever that of the files
        load('loop.train', [files[0], files[2], files[1]], base_and_table)
    assert f'--gin.LOSS_WRAPPERS="{both}"' in str(error.value)
    found = load('loop.train', files, [*base_and_table, ('LOSS_WRAPPERS', both)]).build('loop.train')
    assert [type(wrapper).__name__ for wrapper in found['loss_wrappers']] == ['RDrop', 'FGM']
    load(
        'loop.train', [files[0], 'gin/peft/dora.gin', 'gin/peft/ia3.gin'], base_and_table
    )  # each is instead of the other
    assert load('loop.train', [*files[:2], files[1]], base_and_table)


def test_a_head_that_is_named_after_a_method_does_not_take_it_back(base_and_table):
    files = ['gin/finetune_lora.gin', 'gin/heads/classification.gin', 'gin/methods/eda.gin']
    assert load('loop.train', files, base_and_table)
    message = r'tables.gin, line \d+: AUGMENTERS would be empty again, which .*eda.gin, line \d+ sets'
    with pytest.raises(UserError, match=message):
        load('loop.train', [files[0], files[2], files[1]], base_and_table)


@pytest.mark.parametrize('order', [('replay', 'uda'), ('uda', 'replay')])
def test_methods_that_wrap_the_same_data_are_put_around_each_other(base_and_table, order):
    files = ['gin/finetune_lora.gin', *(f'gin/methods/{name}.gin' for name in order)]
    table = base_and_table[0][1]
    given = [*base_and_table, ('REPLAY_FILES', table), ('UNLABELLED_FILES', table)]
    with pytest.raises(UserError, match=r'loop\.train\.data would replace that of .*\.gin, line') as error:
        load('loop.train', files, given)
    flags = re.findall(r'--gin\.(\S+)="(\S+)"', str(error.value))
    assert ('unlabelled.WithUnlabelled.data', '@replay.WithReplay()') in flags
    data = load('loop.train', files, [*given, *flags]).build('loop.train')['data']
    assert type(data).__name__ == 'WithUnlabelled' and type(data._data).__name__ == 'WithReplay'
    assert {'labels', 'unlabelled_tokens'} <= data.batch(0, 4).keys()
