"""Methods around the loss and the data in whole runs: continued, they are bit for bit what they are in one piece."""

import json

import numpy as np
import pytest

from palm_jax import api
from tests.support.programs import run_here
from tests.support.runs import checkpoint_arrays, finetune

CONSTANT = '--gin_file=gin/schedules/constant.gin'


@pytest.mark.slow
@pytest.mark.parametrize(
    'method', ['fixmatch', 'freelb', 'r_drop', 'supcon', 'aeda', 'replay', 'ewc', 'lwf', 'group_dro', 'clp']
)
def test_a_run_that_was_interrupted_continues_bit_for_bit(made, tmp_path, method):
    flags = [f'--gin_file=gin/methods/{method}.gin', CONSTANT, '--gin.CHECKPOINT_PERIOD=2']
    if method == 'fixmatch':
        flags += [f'--gin.UNLABELLED_FILES={made}/classes.csv', '--gin.UNLABELLED_RATIO=1']
    if method == 'replay':
        flags += [f'--gin.REPLAY_FILES={made}/classes.csv']
    if method == 'group_dro':
        flags += ['--gin.GROUP_COLUMN=label']
    if method == 'clp':
        flags += ["--gin.CLP_TERMS=[['even', 'odd']]"]
    if method in ('ewc', 'lwf'):
        result = finetune(made, tmp_path / 'first', '--gin_file=gin/peft/full.gin', steps=2)
        assert result.returncode == 0, result.stderr[-3000:]
        flags += [f'--gin.INITIAL_CHECKPOINT_PATH={tmp_path}/first']
    if method == 'ewc':
        of_first = f'--gin_file={tmp_path}/first/config.gin', f'--output={tmp_path}/first.npz', '--rows=8'
        result = run_here('palm_jax.cli.main', 'fisher', *of_first)
        assert result.returncode == 0 and '8 of the training table' in result.stdout, result.stderr[-3000:]
        flags += [f'--gin.FISHER_FILE={tmp_path}/first.npz', '--gin.EWC_WEIGHT=1e4']
    for name, steps in (('whole', (4,)), ('parts', (2, 4))):
        for number in steps:
            result = finetune(made, tmp_path / name, *flags, steps=number)
            assert result.returncode == 0, result.stderr[-3000:]
    whole, parts = (checkpoint_arrays(tmp_path / name) for name in ('whole', 'parts'))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(value, parts[name], err_msg=name)


def test_a_few_labels_and_many_texts_become_a_classifier_that_needs_no_tables(made, tmp_path):
    lines = (made / 'classes.csv').read_text().splitlines(keepends=True)
    (tmp_path / 'few.csv').write_text(''.join(lines[:41]))
    (tmp_path / 'many.csv').write_text(''.join([lines[0], *lines[41:]]))
    (tmp_path / 'held_out.csv').write_text(''.join([lines[0], *lines[251:]]))
    flags = '--gin_file=gin/methods/uda.gin', f'--gin.UNLABELLED_FILES={tmp_path}/many.csv', '--gin.UDA_THRESHOLD=0.5'
    few = (
        f'--gin.TRAIN_FILES={tmp_path}/few.csv',
        f'--gin.VALIDATION_FILES={tmp_path}/held_out.csv',
        '--gin.BATCH_SIZE=8',
    )
    result = finetune(made, tmp_path / 'run', *flags, *few, table=None, steps=2)
    assert result.returncode == 0, result.stderr[-3000:]
    logged = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    last = [row for row in logged if 'train/confident' in row][-1]
    assert last['train/confident'] == 1.0 and 0 <= last['train/pseudo_accuracy'] <= 1
    assert 'unlabelled 210 texts' in result.stdout + result.stderr  # those that are held out are left out
    for path in ('few.csv', 'many.csv'):
        (tmp_path / path).unlink()
    assert set(api.load(tmp_path / 'run').predict(['number 5 is odd'])[0]) == {'yes', 'no'}


@pytest.mark.slow
def test_a_teacher_that_generates_text_is_written_down_and_learned_from(made, tmp_path):
    pairs = '--gin_file=gin/heads/text_to_text.gin', '--gin.INPUT_TEMPLATE={text}', '--gin.TARGET_TEMPLATE={label}'
    pairs += ("--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 8}", '--gin.EVAL_EXAMPLES=4')
    result = finetune(made, tmp_path / 'teacher', *pairs, steps=2)
    assert result.returncode == 0, result.stderr[-3000:]
    config, output = f'--gin_file={tmp_path}/teacher/config.gin', f'--output={tmp_path}/teacher.npz'
    result = run_here('palm_jax.cli.main', 'teach', config, output, '--top_k=8', '--batch_size=64')
    assert result.returncode == 0 and '8 tokens each' in result.stdout, result.stderr[-3000:]
    methods = '--gin_file=gin/methods/distil_tokens.gin', f'--gin.TEACHER_FILE={tmp_path}/teacher.npz'
    result = finetune(made, tmp_path / 'student', *pairs, *methods, steps=2)
    assert result.returncode == 0, result.stderr[-3000:]
    logged = (tmp_path / 'student' / 'metrics.jsonl').read_text()
    assert 'train/teacher_divergence' in logged
    result = run_here('palm_jax.cli.main', 'teach', config, '--output=x.csv')
    assert result.returncode == 2 and 'must end in .npz' in result.stderr
