"""Searches: what is drawn, continued, ended early and written."""

import json
import math
from pathlib import Path

import pytest

from palm_jax.cli import ablate
from palm_jax.cli import search as program
from palm_jax.configuration.load import load
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory
from palm_jax.studies import space
from palm_jax.studies.search import Search
from tests.support import runs
from tests.support.paths import ROOT

optuna = pytest.importorskip('optuna')
TEXT = 'some text that is long enough\n' * 100
FLAGS = ('--gin_file=gin/pretrain_tiny.gin', '--gin.VOCABULARY=bytes')
SPACE = {'LEARNING_RATE': ('log', 1e-4, 1e-1), 'D_MODEL': (8, 64), 'OPTIMIZER': ['a', 'b'], 'DROPOUT_RATE': (0.0, 0.3)}


def search(folder, **changes):
    return Search(**({'directory': str(folder), 'flags': FLAGS, 'space': SPACE, 'trials': 12} | changes))


def leave_summary(trained, score=lambda drawn: -abs(math.log10(float(drawn['LEARNING_RATE'])) + 2)):
    """A function that trains in no time: its accuracy is a function of the bindings."""

    def train(files, bindings, writers):
        drawn = dict(bindings)
        run = RunDirectory(Path(drawn['MODEL_DIR'].strip("'")))
        trained.append(drawn)
        run.path.mkdir(parents=True, exist_ok=True)
        for writer in writers:
            writer.write(1, {'validation/loss': -score(drawn)})
        run.summary.write_text(json.dumps({'accuracy': score(drawn)}))
        return 0

    return train


def test_draws_stay_inside_the_space():
    for seed in range(20):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed)).ask()
        values = dict(flag.removeprefix('--gin.').split('=') for flag in space.suggest(trial, SPACE))
        assert 1e-4 <= float(values['LEARNING_RATE']) <= 1e-1 and 8 <= int(values['D_MODEL']) <= 64
        assert values['OPTIMIZER'] in ("'a'", "'b'") and 0 <= float(values['DROPOUT_RATE']) <= 0.3


def test_the_best_trial_is_near_the_optimum_and_becomes_a_gin_file(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    trained = []
    found = search(tmp_path, trials=30, space={'LEARNING_RATE': ('log', 1e-4, 1e-1)})
    found.check()
    assert found.run(leave_summary(trained)) == 0 and len(trained) == 30
    path = found.write_best(found.open())
    best = max(trained, key=lambda drawn: -abs(math.log10(float(drawn['LEARNING_RATE'])) + 2))
    assert path.read_text().splitlines()[1] == f'LEARNING_RATE = {best["LEARNING_RATE"]}'
    assert abs(math.log10(float(best['LEARNING_RATE'])) + 2) < 0.1
    configuration = load('loop.train', ['gin/pretrain_tiny.gin', str(path)], [('VOCABULARY', 'bytes')])
    assert configuration.effective['LEARNING_RATE'].value == float(best['LEARNING_RATE'])


def test_an_interrupted_trial_is_continued_and_nothing_is_drawn_twice(tmp_path):
    first, second = [], []
    train = leave_summary(first)
    assert search(tmp_path).run(lambda *run: train(*run) if len(first) < 3 else 130) == 130
    assert search(tmp_path).run(leave_summary(second)) == 0
    assert len(first) == 3 and len(second) == 9 and second[0]['MODEL_DIR'].endswith("trial_3'")
    rates = [drawn['LEARNING_RATE'] for drawn in (*first, *second)]
    assert len(set(rates)) == 12
    assert search(tmp_path).run(lambda *_: pytest.fail('trained again')) == 0
    assert search(tmp_path, trials=13).run(leave_summary(second)) == 0 and len(second) == 10


def test_a_trial_below_the_median_ends_early(tmp_path):
    scores = iter([0.9, 0.8, 0.9, 0.8, 0.9, 0.1, 1.0])
    trained = []

    def train(files, bindings, writers):
        score = next(scores)
        return leave_summary(trained, lambda _: score)(files, bindings, writers)

    found = search(tmp_path, trials=7)
    assert found.run(train) == 0
    states = [trial.state.name for trial in found.open().trials]
    assert states == [*['COMPLETE'] * 5, 'PRUNED', 'COMPLETE']
    assert not (tmp_path / 'trial_5' / 'summary.json').exists()


def test_a_trial_that_diverges_fails_alone(tmp_path):
    def train(files, bindings, writers):
        directory = Path(dict(bindings)['MODEL_DIR'].strip("'"))
        if directory.name == 'trial_1':
            directory.mkdir(parents=True)
            (directory / 'metrics.jsonl').write_text('{"step": 2, "train/loss": NaN}\n')
            raise UserError('the loss is nan')
        return leave_summary([])(files, bindings, writers)

    found = search(tmp_path, trials=3)
    assert found.run(train) == 0
    assert [trial.state.name for trial in found.open().trials] == ['COMPLETE', 'FAIL', 'COMPLETE']


def test_a_trial_whose_metric_is_not_a_number_fails_alone(tmp_path):
    scores = iter([0.9, math.nan, 0.8])
    found = search(tmp_path, trials=3, prune=None)
    assert found.run(lambda *run: leave_summary([], lambda _, score=next(scores): score)(*run)) == 0
    assert [trial.state.name for trial in found.open().trials] == ['COMPLETE', 'FAIL', 'COMPLETE']


def test_a_mistyped_metric_of_the_pruner_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"PRUNE_BY is 'los', .* Did you mean loss. It has loss; None ends"):
        search(tmp_path, prune='los').run(leave_summary([]))


def test_a_mistyped_metric_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / 'text.txt').write_text(TEXT)
    path = tmp_path / 'search.gin'
    flags = ['--gin_file=gin/pretrain_tiny.gin', '--gin.VOCABULARY=bytes', '--gin.VOCABULARY_SIZE=259']
    flags += [f'--gin.TRAIN_FILES={tmp_path}/text.txt']
    path.write_text(
        f"include 'gin/studies/search.gin'\nSTUDY_DIR = '{tmp_path}/study'\nMETRIC = 'bits_per_bite'\n"
        f"FLAGS = {flags}\nSPACE = {{'LEARNING_RATE': (0.1, 0.2)}}\n"
    )
    with pytest.raises(UserError, match=r"METRIC is 'bits_per_bite', .* Did you mean bits_per_byte\? They will have"):
        program.main([str(path)])
    assert not (tmp_path / 'study').exists()
    path.write_text(path.read_text().replace('search', 'ablation').replace('SPACE', 'ARMS').replace('(0.1, 0.2)', '[]'))
    with pytest.raises(UserError, match=r"METRIC is 'bits_per_bite', .* Did you mean bits_per_byte\? They will have"):
        ablate.main([str(path)])
    assert not (tmp_path / 'study').exists()


@pytest.mark.parametrize('name', ['MODEL_DIR', 'SEEDS'])
def test_what_a_search_sets_itself_is_not_searched(tmp_path, monkeypatch, name):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=name):
        flags = ('--gin_file=gin/finetune_lora.gin', '--gin.TRAIN_FILES=a', '--gin.INITIAL_CHECKPOINT_PATH=runs/tiny')
        search(tmp_path, flags=flags, space={name: [[0, 1], [1, 2]]}).check()


@pytest.mark.parametrize(
    'values, message',
    [
        ([], 'is an empty list; write'),
        (3, r"is 3; write \['a', 'b'\] for a choice"),
        ((1, 2, 3), 'is .1, 2, 3.; write'),
        ((2, 1), 'the first end of a range must be below the second'),
        (('log', 0.0, 1.0), 'must begin above 0'),
        (('a', 'b'), 'write'),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        search(tmp_path, space={'LEARNING_RATE': values})


def test_a_macro_that_does_not_exist_is_found_before_the_first_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match='Did you mean LEARNING_RATE'):
        search(tmp_path, space={'LEARNING_RAET': (0.1, 0.2)}).check()


def test_a_directory_of_another_search_is_refused(tmp_path):
    search(tmp_path).open()
    search(tmp_path, trials=40).open()
    with pytest.raises(UserError, match=r'(?s)another search:\n-METRIC = accuracy\n\+METRIC = loss\n.*STUDY_DIR'):
        search(tmp_path, metric='loss').open()


def test_the_command_searches_and_continues(tmp_path, capsys):
    """With real training."""
    text = tmp_path / 'text.txt'
    text.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(300)))
    flags = [*runs.arguments(text, '')[:-1], '--gin.TRAIN_STEPS=2', '--gin.EVAL_PERIOD=1']
    (tmp_path / 'search.gin').write_text(
        "include 'gin/studies/search.gin'\n"
        f"STUDY_DIR = '{tmp_path}/study'\nMETRIC = 'bits_per_byte'\nTRIALS = 1\nFLAGS = {flags!r}\n"
        "SPACE = {'LEARNING_RATE': ('log', 1e-4, 1e-1)}\n"
    )
    assert program.main([str(tmp_path / 'search.gin')]) == 0
    assert program.main([str(tmp_path / 'search.gin'), '--gin.TRIALS=2']) == 0
    shown = capsys.readouterr().out
    assert '2 trials, 0 ended early' in shown and 'best.gin, for --gin_file' in shown
    assert (tmp_path / 'study' / 'trial_1' / 'summary.json').exists()
