"""The report of a finished run, made of measurements."""

import json
import types
from pathlib import Path

import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.metrics.text_baselines import Baseline
from palm_jax.reports.report import Measurements, RunReport, available, measurements_of, table_of_errors, worst
from palm_jax.training.writers import Jsonl

PLAN = types.SimpleNamespace(
    num_trained=3, num_params=12, cost=lambda: {'parameters': '3 of 12'}, trained_summary=lambda: '3 of 12 (25%)'
)
RESULT = types.SimpleNamespace(step=7, seconds=1.5, plan=PLAN, checkpoint=Path('runs/a/checkpoints/7'))
ROWS = [{'text': 'a | b', 'label': 'x', 'predicted': 'y'}, {'text': '<c>', 'label': 'x', 'predicted': 'x'}]


@pytest.fixture
def model_dir(tmp_path):
    writer = Jsonl()
    writer.open(tmp_path, 0, '')
    writer.write(6, {'train/loss': 3.0, 'train/confident': 0.375})
    writer.write(7, {'train/loss': 2.0, 'train/confident': 0.75})
    writer.write(7, {'validation/loss': 1.0})
    writer.close()
    return tmp_path


def test_a_report_of_predictions_leaves_pages_and_a_row_per_example(model_dir):
    measured = measurements_of(
        0.5,
        {'accuracy': 0.5, 'macro_f1': 0.25},
        (0.1, 0.9),
        ROWS,
        [Baseline('majority class', 'accuracy', 0.75), Baseline('bag of words', 'macro_f1', 0.125)],
        table_of_errors('The worst errors', ROWS, np.array([1.0, -np.inf])),
        figures={'drawn.png': lambda path: path.write_text('drawn')},
        text='a table\n',
    )
    report = RunReport(RESULT, measured)
    report.write(model_dir)
    assert {path.name for path in model_dir.iterdir()} == {
        *('metrics.jsonl', 'summary.json', 'loss.png', 'predictions.jsonl', 'drawn.png', 'report.md', 'report.html'),
    }
    assert json.loads((model_dir / 'summary.json').read_text()) == {
        'step': 7,
        'seconds': 1.5,
        'loss': 0.5,
        'accuracy': 0.5,
        'macro_f1': 0.25,
        'accuracy_interval': [0.1, 0.9],
        'held_out_examples': 2,
        'baselines': {'majority class': {'accuracy': 0.75}, 'bag of words': {'macro_f1': 0.125}},
        'trained_parameters': 3,
        'parameters': 12,
        'checkpoint': 'runs/a/checkpoints/7',
    }
    assert [json.loads(line) for line in (model_dir / 'predictions.jsonl').read_text().splitlines()] == ROWS
    page = (model_dir / 'report.md').read_text()
    assert '## Training, up to step 7' in page and '| confident | 0.7500 |' in page and '0.3750' not in page
    page = (model_dir / 'report.md').read_text()
    assert '| accuracy | 0.5000 |' in page and '| parameters | 3 of 12 |' in page and '| a \\| b | x | y |' in page
    warning = 'This model is no better than a baseline: accuracy 0.5000, and 0.7500 by majority class.'
    assert page.index(warning) < page.index('## Metrics') and 'by bag of words' not in page
    assert '| accuracy\\_interval |' not in page and '| accuracy_interval | 0.1000 to 0.9000 |' in page
    assert '| majority class | accuracy | 0.7500 | 0.5000 |' in page and '| held_out_examples | 2 |' in page
    assert warning in (model_dir / 'report.html').read_text()
    assert '<c>' not in (model_dir / 'report.html').read_text()
    text = report.text(model_dir, 'palm-jax train')
    for shown in (
        '\na table\n',
        warning,
        'baseline         accuracy 0.7500: majority class',
        'validation accuracy  0.5000  (95% interval 0.1000 to 0.9000, 2 examples)',
        'also             macro f1 0.2500',
        f'predictions      {model_dir / "predictions.jsonl"}',
        f'report           {model_dir / "report.html"} (and report.md)',
        'trained          3 of 12 (25%)',
        'continue with    palm-jax train',
    ):
        assert shown in text
    assert report.values() == {'loss': 0.5, 'accuracy': 0.5, 'macro_f1': 0.25}


def test_a_report_has_only_what_was_measured(model_dir):
    report = RunReport(RESULT, Measurements({'loss': 0.5}, details={'perplexity': 1.6}, samples='one\n'))
    report.write(model_dir)
    assert {path.name for path in model_dir.iterdir()} == {'metrics.jsonl', 'summary.json', 'loss.png', 'samples.txt'}
    assert json.loads((model_dir / 'summary.json').read_text())['perplexity'] == 1.6
    text = report.text(model_dir, 'palm-jax train')
    assert 'samples.txt' in text and 'predictions' not in text and 'report.html' not in text


def test_the_worst_predictions_come_first_and_correct_ones_not_at_all():
    rows = [{'text': str(i), 'label': 'x', 'predicted': 'y'} for i in range(30)]
    badness = np.where(np.arange(30) < 25, np.arange(30.0), -np.inf)
    header, *listed = worst(rows, badness)
    assert header == ('text', 'label', 'predicted')
    assert [row[0] for row in listed] == [str(i) for i in range(24, 4, -1)]


def test_numbers_are_rounded_names_joined_and_nothing_wrong_makes_no_table():
    rows = [{'text': 'a', 'label': ['x', 'y'], 'predicted': 0.123456789}]
    assert worst(rows, np.zeros(1))[1:] == [('a', 'x, y', '0.1235')]
    assert table_of_errors('The worst errors', rows, np.array([-np.inf])) == {}
    assert (
        '(95% interval 0.0000 to 1.0000, 1 example)' in measurements_of(0.1, {'accuracy': 1.0}, (0, 1), rows).lines[0]
    )


def test_as_good_as_a_baseline_is_not_better_unless_both_are_perfect():
    assert Baseline('b', 'accuracy', 0.5).is_beaten_by(0.6) and not Baseline('b', 'accuracy', 0.5).is_beaten_by(0.5)
    assert Baseline('b', 'accuracy', 1.0).is_beaten_by(1.0)
    assert Baseline('b', 'absolute_error', 2.0, best=0.0).is_beaten_by(1.0)
    assert not Baseline('b', 'bleu', 30.0, best=100.0).is_beaten_by(20.0)


def test_a_run_without_its_training_files_is_measured_without_baselines(caplog):
    def compute():
        raise UserError('TRAIN_FILES: no such file')

    assert available(compute) == [] and 'without baselines: TRAIN_FILES: no such file' in caplog.text
