"""palm-jax continue with real training: labels that come later, replay and EWC, and what is written."""

import json
import re

import pytest

from palm_jax import api
from tests.support.programs import run_here


def write_study(folder, made, *more, later=()):
    for name, rows in (
        (
            'first',
            [f'number {i} is {"even" if i % 2 == 0 else "odd"},{"yes" if i % 2 == 0 else "no"}' for i in range(40)],
        ),
        ('second', [f'letter {chr(97 + i % 26)} number {i},{"maybe" if i % 3 else "no"}' for i in range(40)]),
    ):
        (folder / f'{name}.csv').write_text('\n'.join(['text,label', *rows]) + '\n')
    flags = [
        '--gin_file=gin/finetune_lora.gin',
        f'--gin.INITIAL_CHECKPOINT_PATH={made}/base',
        '--gin.TRAIN_STEPS=2',
        '--gin.BATCH_SIZE=8',
        '--gin.EVAL_PERIOD=10',
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 24}",
    ]
    tasks = {name: [f'--gin.TRAIN_FILES={folder}/{name}.csv', *more] for name in ('first', 'second')}
    (folder / 'study.gin').write_text(
        "include 'gin/studies/continual.gin'\n"
        f"STUDY_DIR = '{folder}/study'\nFLAGS = {flags!r}\nTASKS = {tasks!r}\nLATER_FLAGS = {list(later)!r}\n"
        'FISHER_ROWS = 8\n'
    )
    return str(folder / 'study.gin')


@pytest.mark.slow
def test_two_tasks_are_learned_one_after_the_other(made, tmp_path):
    later = (
        *('--gin_file=gin/methods/ewc.gin', '--gin.FISHER_FILE={fisher}', '--gin.EWC_WEIGHT=1e4'),
        *('--gin_file=gin/methods/replay.gin', '--gin.REPLAY_FILES={earlier_files}', '--gin.REPLAY_RATE=0.25'),
    )
    study = write_study(tmp_path, made, later=later)
    result = run_here('palm_jax.cli.main', 'continue', study)
    assert result.returncode == 0, result.stderr[-3000:]
    shown = result.stdout
    table = re.search(r'^accuracy +first +second$', shown, re.MULTILINE)
    assert table
    assert re.search(r'^backward transfer \(BWT\) +[+-]\d\.\d+', shown, re.MULTILINE)
    folder = tmp_path / 'study'
    record = json.loads((folder / 'continual.json').read_text())
    assert all(0 <= score <= 1 for row in [record['before'], *record['scores']] for score in row)
    model = api.load(folder / '2_second')
    assert model.data.labels == ('no', 'yes', 'maybe')
    logged = [json.loads(line) for line in (folder / '2_second' / 'metrics.jsonl').read_text().splitlines()]
    assert [row for row in logged if 'train/ewc_penalty' in row]
    again = run_here('palm_jax.cli.main', 'continue', study, '--table')
    assert again.returncode == 0 and again.stdout == shown[table.start() :]


def test_a_way_to_train_that_cannot_be_continued_is_refused_before_the_first_task(made, tmp_path):
    study = write_study(tmp_path, made, '--gin_file=gin/peft/prompt.gin')
    result = run_here('palm_jax.cli.main', 'continue', study, '--check')
    assert result.returncode == 2 and "TASKS['first']: SoftPrompt cannot be merged" in result.stderr, result.stderr
    assert not (tmp_path / 'study').exists()
