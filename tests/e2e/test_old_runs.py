"""What earlier code trained and exported (tests/goldens/runs) opens, answers as it did then, and continues."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from palm_jax.api import loading
from tests.support import old_runs
from tests.support.old_runs import assert_near, command
from tests.support.programs import run_here

EXPECTED = json.loads((old_runs.RUNS / 'expected.json').read_text())


@pytest.fixture(scope='module', autouse=True)
def runs(tmp_path_factory):
    """A copy of all runs as the working directory, from where their configurations name tables and bases."""
    folder = tmp_path_factory.mktemp('old') / 'runs'
    shutil.copytree(old_runs.RUNS, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.mark.parametrize('name', old_runs.ANSWERS)
def test_a_run_answers_what_it_answered(name):
    assert_near(old_runs.ANSWERS[name](name), EXPECTED[name])


def test_the_interrupted_run_continues_with_its_command():
    result = run_here('palm_jax.train', *old_runs.INTERRUPTED, cwd=Path.cwd())
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'continuing from step' in result.stdout
    expected = EXPECTED['interrupted, continued']
    losses = {step: loss for step, loss in old_runs.losses('interrupted').items() if str(step) in expected}
    assert_near(losses, expected, 1e-4)


@pytest.mark.parametrize(
    'name',
    ['classifier', 'tagger', *(pytest.param(name, marks=pytest.mark.slow) for name in ('writer', 'regressor'))],
)
def test_a_run_continues_with_its_config(name, caplog):
    caplog.set_level(logging.INFO)
    shutil.copytree(name, 'kept')
    try:
        assert_near(old_runs.continued(name), EXPECTED[f'{name}, continued'], 1e-4)
    finally:
        shutil.rmtree(name)
        shutil.move('kept', name)
    assert 'continuing from step' in caplog.text


def test_the_held_out_loss_is_the_one_that_the_run_reported():
    command('eval', '--gin_file=base/config.gin', '--output=eval.json')
    (measured,) = json.loads(Path('eval.json').read_text())['measured'].values()
    loss = measured['metrics']['loss']
    assert_near(loss, json.loads(Path('base/summary.json').read_text())['loss'])


def test_rows_of_a_file_are_answered():
    Path('in.jsonl').write_text(''.join(json.dumps({'text': text}) + '\n' for text in old_runs.TEXTS))
    command('infer', '--gin_file=classifier/config.gin', '--input=in.jsonl', '--output=out.jsonl')
    rows = [json.loads(line) for line in Path('out.jsonl').read_text().splitlines()]
    probabilities = [dict(sorted(row['probabilities'].items())) for row in rows]
    assert_near(probabilities, EXPECTED['classifier']['predictions'], 1e-4)


def test_what_was_exported_is_exported_again_and_comes_in_as_a_base():
    command('export', '--format=hf', '--gin_file=base/config.gin', 'again_base')
    command('export', '--format=peft', '--base=exported_base', '--gin_file=classifier/config.gin', 'again_adapter')
    for kind, file in (('base', 'model.safetensors'), ('adapter', 'adapter_model.safetensors')):
        old, new = (load_file(f'{folder}_{kind}/{file}') for folder in ('exported', 'again'))
        assert old.keys() == new.keys()
        for name in old:
            np.testing.assert_allclose(new[name], old[name], rtol=1e-6, atol=1e-7, err_msg=name)
        names = {path.name for path in Path(f'exported_{kind}').iterdir()}
        assert names == {path.name for path in Path(f'again_{kind}').iterdir()}
    command('import_weights', '--format=hf', 'exported_base', 'imported')
    scores = loading.load('imported').score([(prompt, 'is 144.') for prompt in old_runs.PROMPTS])
    assert_near([list(score.logprobs) for score in scores], EXPECTED['base']['log-probabilities'], 1e-4)


@pytest.mark.slow
def test_a_saved_model_is_a_base_to_start_from():
    model = loading.finetune('classes.csv', 'saved', 'from_saved', TRAIN_STEPS=1, TASK_FEATURE_LENGTHS={'inputs': 32})
    assert set(model.predict(old_runs.TEXTS)[0]) == {'no', 'yes'}
