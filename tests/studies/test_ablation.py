"""Ablations: which runs there are, what is trained again, and what the table says."""

import json
import math
import re
from pathlib import Path

import pytest

from palm_jax.cli import ablate
from palm_jax.configuration.flags import gin_flags
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory
from palm_jax.studies import table
from palm_jax.studies.ablation import Ablation, job_script
from tests.support import runs
from tests.support.paths import ROOT

FLAGS = ('--gin_file=gin/pretrain_tiny.gin', '--gin.VOCABULARY=bytes')
FINETUNE = ('--gin_file=gin/finetune_lora.gin', '--gin.TRAIN_FILES=a.csv', '--gin.INITIAL_CHECKPOINT_PATH=runs/tiny')
ARMS = {'plain': [], 'Slow (half)': ['--gin.LEARNING_RATE=1e-2'], 'wide': ['--gin.D_MODEL=96']}
VALUES = {'plain': (0.50, 0.60, 0.55), 'slow_half': (0.61, 0.70, 0.66), 'wide': (0.49, 0.62, 0.55)}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def study(folder, **changes):
    return Ablation(**({'directory': str(folder), 'flags': FLAGS, 'arms': ARMS} | changes))


def leave_summaries(trained, **more):
    """A function that leaves the summaries of `VALUES`, as training does, and keeps the arms and seeds it was given."""

    def train(files, bindings):
        assert files == ['gin/pretrain_tiny.gin']
        values = dict(bindings)
        directory = values['MODEL_DIR'].strip("'")
        arm, seed = re.search(r'([^/]+)/seed_(\d)$', directory).groups()
        assert values['SEED'] == seed
        trained.append((arm, int(seed)))
        summary = {'accuracy': VALUES[arm][int(seed)], 'trained_parameters': 10, 'seconds': 2.0, **more}
        run = RunDirectory(Path(directory))
        run.path.mkdir(parents=True, exist_ok=True)
        run.summary.write_text(json.dumps(summary))
        return 0

    return train


def test_all_arms_of_a_seed_come_before_the_next_seed(tmp_path):
    trained = []
    study(tmp_path).check()
    assert study(tmp_path).train(leave_summaries(trained)) == 0
    assert trained == [(arm, seed) for seed in range(3) for arm in ('plain', 'slow_half', 'wide')]


def test_the_table_says_what_differs(tmp_path):
    study(tmp_path).train(leave_summaries([]))
    rows = table.rows(study(tmp_path))
    assert [row.arm for row in rows] == ['plain', 'Slow (half)', 'wide']
    better, same = rows[1].effect, rows[2].effect
    assert better.mean == pytest.approx(0.32 / 3) and same.mean == pytest.approx(0.01 / 3)
    assert rows[1].adjusted == pytest.approx(2 * better.p_value) and better.p_value < 0.01
    verdicts = [table.verdict(study(tmp_path), row) for row in rows]
    assert verdicts == ['', 'better', 'no significant difference']
    losses = study(tmp_path, metric='loss')
    assert table.verdict(losses, rows[1]) == 'worse'
    assert [row.arm for row in table.rows(study(tmp_path, baseline='wide'))] == ['wide', 'plain', 'Slow (half)']
    shown = table.text(table.cells(study(tmp_path), rows))
    assert '0.6567 ± 0.0451  3/3' in shown and '+0.1067' in shown


def test_what_is_finished_is_not_trained_again_and_the_rest_is(tmp_path):
    trained = []
    assert study(tmp_path).train(leave_summaries(trained), only=4) == 0
    assert trained == [('slow_half', 1)]
    study(tmp_path).train(leave_summaries(trained))
    assert len(trained) == len(set(trained)) == 9
    assert study(tmp_path).train(lambda *_: pytest.fail('trained again')) == 0


def test_an_interrupted_run_ends_the_study_with_its_code(tmp_path):
    assert study(tmp_path).train(lambda *_: 130) == 130
    with pytest.raises(UserError, match='holds no finished run'):
        table.rows(study(tmp_path))


def test_a_run_that_diverges_is_left_out_and_the_others_go_on(tmp_path):
    def train(files, bindings):
        directory = Path(dict(bindings)['MODEL_DIR'].strip("'"))
        if 'wide' in str(directory):
            directory.mkdir(parents=True)
            (directory / 'metrics.jsonl').write_text('{"step": 1, "train/loss": 2.0}\n{"step": 2, "train/loss": NaN}\n')
            raise UserError('the loss is nan')
        return leave_summaries([])(files, bindings)

    assert study(tmp_path).train(train) == 0
    assert [len(row.values) for row in table.rows(study(tmp_path))] == [3, 3, 0]
    with pytest.raises(UserError, match='no table'):
        study(tmp_path / 'other').train(lambda *_: raise_error('no table'))


def raise_error(message):
    raise UserError(message)


def test_an_incomplete_table_says_so(tmp_path):
    for number in (0, 1, 2, 3):
        study(tmp_path).train(leave_summaries([]), only=number)
    rows = table.rows(study(tmp_path))
    assert [len(row.values) for row in rows] == [2, 1, 1]
    assert table.verdict(study(tmp_path), rows[1]) == 'one seed: no test'
    paths = table.write(study(tmp_path), rows)
    assert all(path.stat().st_size for path in paths)
    assert '5 runs of 9 without a result yet.' in paths[1].read_text()
    assert json.loads(paths[0].read_text())['arms'][1]['flags'] == ['--gin.LEARNING_RATE=1e-2']


def test_a_finished_run_with_other_flags_is_not_taken_for_this_one(tmp_path):
    study(tmp_path).train(leave_summaries([]))
    changed = study(tmp_path, arms=ARMS | {'wide': ['--gin.D_MODEL=128']})
    with pytest.raises(
        UserError, match=r'(?s)other flags:\n-.*D_MODEL=96\n\+.*D_MODEL=128\n.*STUDY_DIR.*rm -r .*wide/seed_0'
    ):
        changed.train(leave_summaries([]))
    study(tmp_path).check()
    with pytest.raises(UserError, match=r'wide/seed_0 holds a run with other flags'):
        changed.check()  # before another arm is trained


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'seeds': (1, 1)}, r'STUDY_SEEDS is \[1, 1\]; it must be a list of distinct numbers'),
        ({'baseline': 'plain2'}, 'BASELINE is .plain2., which is not an arm. Did you mean plain'),
        ({'arms': {'a b': [], 'A_b': []}}, "'a b', 'A_b' have the same folder 'a_b'"),
        ({'arms': {'+': []}}, 'must have a letter or a digit'),
        ({'arms': {}}, 'it must be not empty'),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        study(tmp_path, **changes)


def test_a_mistake_in_the_last_arm_is_found_before_the_first_trains(tmp_path):
    wrong = study(tmp_path, arms=ARMS | {'last': ['--gin.LEARNING_RAET=1']})
    with pytest.raises(UserError, match=r"ARMS\['last'\]: .*--gin.LEARNING_RAET=1: .*Did you mean LEARNING_RATE"):
        wrong.check()
    with pytest.raises(UserError, match=r"ARMS\['last'\]: '--rank=3' is neither --gin_file"):
        study(tmp_path, arms={'last': ['--rank=3']}).check()


def test_a_metric_that_no_run_has_is_named_with_those_it_has(tmp_path):
    study(tmp_path).train(leave_summaries([]))
    with pytest.raises(UserError, match=r"METRIC is 'acuracy'.*Did you mean accuracy.*It has accuracy, trained"):
        table.rows(study(tmp_path, metric='acuracy'))


def test_a_number_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match='--run=9: the study has 9 runs, numbers 0 to 8'):
        study(tmp_path).train(lambda *_: 0, only=9)


def test_a_job_of_an_array_trains_its_run(tmp_path):
    script = job_script(study(tmp_path), 'palm-jax ablate my.gin')
    assert '--array=0-8 ' in script and script.endswith('palm-jax ablate my.gin --run="$SLURM_ARRAY_TASK_ID"\n')


def test_flags_are_files_and_bindings():
    assert gin_flags(['--gin_file=a.gin', '--gin.A=1', '--gin.B', '2']) == (['a.gin'], [('A', '1'), ('B', '2')])


def test_a_mistyped_metric_costs_one_run(tmp_path):
    trained = []
    wrong = study(tmp_path, metric='acuracy')
    for _ in range(2):
        with pytest.raises(UserError, match=r"METRIC is 'acuracy'.*Did you mean accuracy"):
            wrong.train(leave_summaries(trained))
    assert len(trained) == 1


def test_a_metric_that_is_not_a_number_is_no_result(tmp_path):
    study(tmp_path, metric='pearson').train(leave_summaries([], pearson=math.nan))
    with pytest.raises(UserError, match='holds no finished run'):
        table.rows(study(tmp_path, metric='pearson'))


@pytest.mark.parametrize(
    'flag, message',
    [
        ('--gin.SEED=5', r"ARMS\['last'\]: --gin.SEED has no effect in a study.*STUDY_SEEDS"),
        ('--gin.MODEL_DIR=runs/mine', '--gin.MODEL_DIR has no effect in a study.*STUDY_DIR'),
        ('--gin.SEEDS=[0,1]', 'SEEDS trains several models.*Remove it'),
    ],
)
def test_flags_that_the_study_would_override_are_refused(tmp_path, flag, message):
    with pytest.raises(UserError, match=message):
        study(tmp_path, flags=FINETUNE, arms={'first': [], 'last': [flag]}).check()


def test_a_file_that_is_not_a_study_is_refused_with_the_line_that_it_needs():
    with pytest.raises(UserError, match=r"binds nothing of ablation\.Ablation: .* include 'gin/studies/ablation\.gin'"):
        ablate.main(['examples/searches/lora.gin'])


def test_the_command_trains_compares_and_continues(tmp_path, capsys):
    """With real training."""
    text = tmp_path / 'text.txt'
    text.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(300)))
    flags = [*runs.arguments(text, '')[:-1], '--gin.TRAIN_STEPS=2']
    (tmp_path / 'study.gin').write_text(
        "include 'gin/studies/ablation.gin'\n"
        f"STUDY_DIR = '{tmp_path}/study'\nMETRIC = 'bits_per_byte'\nSTUDY_SEEDS = [0]\nFLAGS = {flags!r}\n"
        "ARMS = {'fast': [], 'slow': ['--gin.LEARNING_RATE=1e-3']}\n"
    )
    assert ablate.main([str(tmp_path / 'study.gin'), '--slurm']) == 0
    assert '--array=0-1' in capsys.readouterr().out
    assert ablate.main([str(tmp_path / 'study.gin'), '--run=1']) == 0
    assert ablate.main([str(tmp_path / 'study.gin')]) == 0
    shown = capsys.readouterr().out
    assert re.search(r'^slow +\d\.\d+ +1/1 +[+-]\d\.\d+ .*one seed: no test$', shown, re.MULTILINE)
    assert (tmp_path / 'study' / 'ablation.png').stat().st_size
    assert ablate.main([str(tmp_path / 'study.gin'), '--table']) == 0
    assert capsys.readouterr().out.splitlines()[:3] == shown[shown.index('arm ') :].splitlines()[:3]
