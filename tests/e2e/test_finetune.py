"""Whole fine-tuning runs through the command line, on a base made here."""

import json
import os
import re
import subprocess
import sys

import pytest

from palm_jax.trained import load
from tests.e2e.test_train import MICRO, ROOT, checkpoint_bytes


def run(*arguments):
    command = [sys.executable, '-m', 'palm_jax.train', *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A base, another base, and tables."""
    folder = tmp_path_factory.mktemp('finetune')
    text = folder / 'text.txt'
    text.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(1500)))
    for name, seed in (('base', 0), ('other', 1)):
        result = run(
            *MICRO,
            f'--gin.TRAIN_FILES={text}',
            f'--gin.MODEL_DIR={folder / name}',
            '--gin.TRAIN_STEPS=2',
            f'--gin.SEED={seed}',
        )
        assert result.returncode == 0, result.stderr[-3000:]
    rows = [(f'number {i} is {"even" if i % 2 == 0 else "odd"}', 'yes' if i % 2 == 0 else 'no', i) for i in range(300)]
    (folder / 'classes.csv').write_text('text,label\n' + ''.join(f'"{t}",{label}\n' for t, label, _ in rows))
    (folder / 'numbers.csv').write_text('text,label\n' + ''.join(f'"{t}",{i / 300}\n' for t, _, i in rows))
    (folder / 'many.csv').write_text(
        'text,label\n' + ''.join(f'"{t}",{label}{"|small" if i < 99 else ""}\n' for t, label, i in rows)
    )
    return folder


def finetune(made, model_dir, *flags, base='base', table='classes.csv', steps=30):
    return run(
        '--gin_file=gin/finetune_lora.gin',
        f'--gin.INITIAL_CHECKPOINT_PATH={made / base}',
        f'--gin.TRAIN_FILES={made / table}',
        f'--gin.MODEL_DIR={model_dir}',
        f'--gin.TRAIN_STEPS={steps}',
        '--gin.LEARNING_RATE=1e-2',
        '--gin.LOG_PERIOD=1',
        '--gin.EVAL_PERIOD=10',
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 32}",
        *flags,
    )


def test_a_table_becomes_a_classifier_with_a_report(made, tmp_path):
    result = finetune(made, tmp_path / 'run')
    assert result.returncode == 0, result.stderr[-3000:]
    for name in ('report.md', 'report.html', 'confusion.png', 'loss.png', 'predictions.jsonl', 'summary.json'):
        assert (tmp_path / 'run' / name).stat().st_size > 0, name
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    predictions = [json.loads(line) for line in (tmp_path / 'run' / 'predictions.jsonl').read_text().splitlines()]
    assert summary['accuracy'] == sum(p['label'] == p['predicted'] for p in predictions) / len(predictions)
    assert summary['accuracy'] > 0.9  # the text says it
    assert all(abs(sum(p['probabilities'].values()) - 1) < 1e-4 for p in predictions)
    assert summary['trained_parameters'] < 0.5 * summary['parameters']
    for shown in ('95% interval', 'precision', 'of full training', 'report.html'):
        assert shown in result.stdout, shown
    # The checkpoint holds the adapter and the head; the base stays where it is.
    saved = checkpoint_bytes(tmp_path / 'run', 30)
    assert saved and not [path for path in saved if 'embedding' in path or re.search(r"'gate'\]$", path)]

    # The same model in Python gives the same probabilities.
    loaded = load(tmp_path / 'run')
    for row, p in zip(predictions, loaded.predict([row['text'] for row in predictions]), strict=True):
        assert next(iter(p)) == row['predicted']
        for label, value in row['probabilities'].items():
            assert abs(p[label] - value) < 1e-4

    more = finetune(made, tmp_path / 'run', steps=31)
    assert more.returncode == 0 and 'continuing from step 30' in more.stdout, more.stderr[-2000:]
    wrong = finetune(made, tmp_path / 'run', '--accept_changes', base='other', steps=32)
    assert wrong.returncode == 2 and 'on top of the base' in wrong.stderr and 'Traceback' not in wrong.stderr


@pytest.mark.parametrize(
    ('flags', 'table', 'measure'),
    [
        (['--gin_file=gin/heads/regression.gin'], 'numbers.csv', 'pearson'),
        (['--gin_file=gin/heads/multilabel.gin'], 'many.csv', 'accuracy'),
        (['--gin_file=gin/peft/top_k_layers.gin', '--gin.CLASS_WEIGHTS=balanced'], 'classes.csv', 'accuracy'),
    ],
)
def test_other_heads_and_other_parts_are_one_more_file(made, tmp_path, flags, table, measure):
    result = finetune(made, tmp_path / 'run', *flags, table=table, steps=3)
    assert result.returncode == 0, result.stderr[-3000:]
    assert measure in json.loads((tmp_path / 'run' / 'summary.json').read_text())


def test_a_mistake_is_one_message(made, tmp_path):
    for flags, message in (
        (['--gin.LABEL_COLUMN=category'], "no column 'category'"),
        (["--gin.TRAINABLE=['stack/atn/.*']"], "TRAINABLE: 'stack/atn/.*' matches no parameter"),
        (['--gin.INITIAL_CHECKPOINT_PATH=nowhere'], "'nowhere' is no checkpoint"),
        (['--gin.TRAINABLE_LAYERS=9'], 'the model has 2 layers'),
    ):
        result = finetune(made, tmp_path / 'run', *flags, steps=1)
        assert result.returncode == 2 and message in result.stderr, result.stderr[-2000:]
        assert 'Traceback' not in result.stderr


def test_explain_shows_what_is_trained(made, tmp_path):
    result = finetune(made, tmp_path / 'run', '--explain')
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r'stack/attn/qkv/lora/q_a .* yes', result.stdout)
    assert re.search(r'embed/embedding .* no', result.stdout) and 'label  ' in result.stdout
