"""examples/my_task: its examples, and a whole run of its gin file."""

import json

from examples.my_task import my_task
from tests.support.examples import run
from tests.support.programs import run_here


def test_no_sum_is_in_both_splits():
    train, validation = (list(my_task.examples(split)) for split in my_task.SPLITS)
    assert (len(train), len(validation)) == (80, 20)
    assert not [example for example in validation if example in train]
    assert {'first': 'three', 'second': 'five', 'sum': '8'} in train + validation


def test_the_task_is_fine_tuned_on_and_evaluated(base, tmp_path):
    bindings = (f'INITIAL_CHECKPOINT_PATH={base}', 'TRAIN_STEPS=2', 'BATCH_SIZE=4', 'EVAL_EXAMPLES=3')
    run('examples/my_task/my_task.gin', tmp_path / 'run', *bindings)
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert 0 <= summary['exact_match'] <= 100
    config = tmp_path / 'run' / 'config.gin'
    result = run_here(
        'palm_jax.cli.eval',
        f'--gin_file={config}',
        '--task=my_sums',
        '--shots=2',
        '--examples=3',
        '--trust_modules=examples.my_task',
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (measured,) = json.loads((tmp_path / 'run' / 'eval.json').read_text())['measured'].values()
    assert 0 <= measured['metrics']['accuracy'] <= 1
