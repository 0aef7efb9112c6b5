"""Whole fine-tuning runs through the command line, on a base made here."""

import json
import re
import shlex
import shutil

import jax
import numpy as np
import pytest

from palm_jax.api import loading
from palm_jax.api.loading import load
from palm_jax.errors import UserError
from palm_jax.models.quantization import is_quantized
from tests.support.paths import ROOT
from tests.support.programs import run_here
from tests.support.runs import checkpoint_arrays, finetune, run


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
    saved = checkpoint_arrays(tmp_path / 'run', 30)
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
        (['--gin_file=gin/heads/multilabel.gin', '--gin.GROUP_BY_LENGTH=64'], 'many.csv', 'accuracy'),
        pytest.param(['--gin_file=gin/heads/regression.gin'], 'numbers.csv', 'pearson', marks=pytest.mark.slow),
        pytest.param(
            ['--gin_file=gin/peft/top_k_layers.gin', '--gin.CLASS_WEIGHTS=balanced'],
            'classes.csv',
            'accuracy',
            marks=pytest.mark.slow,
        ),
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
        (['--gin.INITIAL_CHECKPOINT_PATH=nowhere'], "'nowhere' is not a checkpoint"),
        (['--gin.TRAINABLE_LAYERS=9'], 'TRAINABLE_LAYERS is 9; it must be at least 1 and at most 2'),
        (['--gin.GROUP_BY_LENGTH=48'], 'GROUP_BY_LENGTH is 48; it must be BATCH_SIZE = 32 or a multiple'),
    ):
        result = finetune(made, tmp_path / 'run', *flags, steps=1)
        assert result.returncode == 2 and message in result.stderr, result.stderr[-2000:]
        assert 'Traceback' not in result.stderr


def test_a_quantized_base_is_trained_on_loaded_and_merged(made, tmp_path, caplog):
    nf4 = ['--gin.BASE_WEIGHTS=nf4']
    explained = finetune(made, tmp_path / 'run', *nf4, '--explain')
    assert re.search(r'frozen parameters \S+', explained.stdout), explained.stderr[-2000:]
    assert finetune(made, tmp_path / 'run', *nf4, steps=10).returncode == 0
    result = finetune(made, tmp_path / 'run', *nf4, steps=30)
    assert result.returncode == 0 and 'continuing from step 10' in result.stdout, result.stderr[-3000:]
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    base = json.loads((made / 'base' / 'summary.json').read_text())
    assert summary['accuracy'] > 0.9
    assert summary['parameters'] - summary['trained_parameters'] == base['parameters']

    rows = [json.loads(line) for line in (tmp_path / 'run' / 'predictions.jsonl').read_text().splitlines()]
    quantized = load(tmp_path / 'run')
    assert any(map(is_quantized, jax.tree.leaves(quantized.params, is_leaf=is_quantized)))
    with caplog.at_level('INFO'):
        quantized.save(tmp_path / 'whole')
    exported = run_here('palm_jax.export', f'--gin_file={tmp_path}/run/config.gin', str(tmp_path / 'exported'))
    assert exported.returncode == 0, exported.stderr[-3000:]
    for said in (caplog.text, exported.stdout):
        assert 'the base was dequantized from nf4' in said
        row = re.search(r'^ +accuracy +(\S+) +(\S+) +(\S+)$', said, re.MULTILINE)
        assert row and float(row[1]) == pytest.approx(summary['accuracy'], abs=1e-4)
        assert float(row[2]) - float(row[1]) == pytest.approx(float(row[3]), abs=2e-4)
    for model in (quantized, load(tmp_path / 'whole')):
        for row, p in zip(rows, model.predict([row['text'] for row in rows]), strict=True):
            assert all(abs(p[label] - value) < 1e-3 for label, value in row['probabilities'].items())

    trains_all = finetune(made, tmp_path / 'full', *nf4, '--gin_file=gin/peft/full.gin')
    assert trains_all.returncode == 2 and 'this run has none' in trains_all.stderr, trains_all.stderr[-2000:]


def test_explain_shows_what_is_trained(made, tmp_path):
    result = finetune(made, tmp_path / 'run', '--explain')
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r'stack/attn/qkv/lora/q_a .* yes', result.stdout)
    assert re.search(r'embed/embedding .* no', result.stdout) and 'label  ' in result.stdout


def test_in_python_from_a_table_to_a_model_that_stands_alone(made, tmp_path, capsys):
    table, base = tmp_path / 'table.csv', tmp_path / 'base'
    table.write_text((made / 'classes.csv').read_text())
    shutil.copytree(made / 'base', base)
    model = loading.finetune(
        table, base, tmp_path / 'run', TRAIN_STEPS=20, LEARNING_RATE=1e-2, TASK_FEATURE_LENGTHS={'inputs': 32}
    )
    command = shlex.split(re.search(r'^continue with *(.*)$', capsys.readouterr().out, re.MULTILINE)[1])
    assert command[:2] == ['palm-jax', 'train'] and command[-1] == '--gin.TRAIN_STEPS=40'
    again = run_here('palm_jax.train', *command[2:-1], '--gin.TRAIN_STEPS=20')
    assert 'this run was finished at step 20' in again.stdout, again.stderr[-2000:]
    texts = [f'number {i} is {"even" if i % 2 == 0 else "odd"}' for i in range(500, 540)]
    probabilities = model.predict(texts)
    assert sum(next(iter(p)) == 'yes' for p in probabilities) == 20
    model.save(tmp_path / 'whole')
    with pytest.raises(UserError, match='holds a run already'):
        model.save(tmp_path / 'whole')
    with pytest.raises(UserError, match='use predict'):
        model.generate(texts)
    table.unlink()
    assert load(tmp_path / 'run').predict(texts[:2])  # the labels are in the checkpoint
    shutil.rmtree(base)
    with pytest.raises(UserError, match='is not a checkpoint'):
        load(tmp_path / 'run')
    for before, after in zip(probabilities, load(tmp_path / 'whole').predict(texts), strict=True):
        assert before.keys() == after.keys() and all(abs(before[k] - after[k]) < 1e-5 for k in before)
    # LoRA is merged: what was saved is a base like any other, for another head, too. The trained part alone is none.
    alone = finetune(made, tmp_path / 'again', steps=1, base=tmp_path / 'run')
    assert alone.returncode == 2 and f"api.load('{tmp_path / 'run'}').save(" in alone.stderr, alone.stderr[-2000:]
    assert not (tmp_path / 'again').exists()  # a run that was refused leaves nothing
    again = finetune(made, tmp_path / 'again', '--gin_file=gin/heads/regression.gin', table='numbers.csv', steps=1,
                     base=tmp_path / 'whole')  # fmt: skip
    assert again.returncode == 0, again.stderr[-2000:]


def test_a_run_without_a_base_that_trains_top_layers_only_is_loaded_whole(made, tmp_path):
    flags = ("--gin.TRAINABLE=['stack/.*', 'embed/.*']", '--gin.TRAINABLE_LAYERS=1', '--gin.TRAIN_STEPS=2')
    result = run(made / 'text.txt', tmp_path, *flags)
    assert result.returncode == 0, result.stderr[-2000:]
    assert load(tmp_path).params['stack']['norm']['scale'].shape == (2, 32)


def test_a_metric_that_does_not_exist_costs_no_step(made, tmp_path):
    flags = ('--gin.EVAL_PERIOD=2', '--gin.CHECKPOINT_PERIOD=100')
    wrong = finetune(made, tmp_path / 'run', *flags, '--gin.BEST_METRIC=macro_f', steps=4)
    assert wrong.returncode == 2 and 'Did you mean macro_f1?' in wrong.stderr, wrong.stderr[-2000:]
    assert 'evaluating' not in wrong.stderr and 'Traceback' not in wrong.stderr
    assert not list((tmp_path / 'run' / 'checkpoints').glob('[0-9]*'))  # refused before the first step
    right = finetune(made, tmp_path / 'run', *flags, '--gin.BEST_METRIC=macro_f1', steps=4)
    assert right.returncode == 0 and 'continuing' not in right.stdout, right.stderr[-2000:]


@pytest.mark.slow
def test_several_seeds_and_the_best_step_of_each(made, tmp_path):
    flags = ('--gin.SEEDS=[0, 1]', '--gin.BEST_METRIC=macro_f1', '--gin.PATIENCE=1', '--gin.EVAL_PERIOD=5')
    result = finetune(made, tmp_path / 'runs', *flags, steps=40)
    assert result.returncode == 0, result.stderr[-3000:]
    of_seeds = [json.loads((tmp_path / 'runs' / f'seed_{s}' / 'summary.json').read_text()) for s in (0, 1)]
    both = json.loads((tmp_path / 'runs' / 'seeds.json').read_text())
    assert both['seeds'] == [0, 1]
    assert abs(both['measures']['macro_f1']['mean'] - sum(s['macro_f1'] for s in of_seeds) / 2) < 1e-9
    assert of_seeds[0]['loss'] != of_seeds[1]['loss']
    for seed, summary in enumerate(of_seeds):
        best = tmp_path / 'runs' / f'seed_{seed}' / 'best'
        assert [p.name for p in best.iterdir() if p.name.isdigit()] == [str(summary['step'])]
    assert '± deviation' in result.stdout


OF_ALL_PARAMETERS = ('full', 'embeddings_only')  # their checkpoints hold the embedding


@pytest.mark.slow
@pytest.mark.parametrize('part', sorted(path.stem for path in (ROOT / 'gin' / 'peft').glob('*.gin')))
def test_every_part_is_trained_continued_and_loaded_and_its_checkpoint_holds_it_alone(made, tmp_path, part):
    flags = ('--gin_file=gin/schedules/constant.gin', f'--gin_file=gin/peft/{part}.gin', '--gin.CHECKPOINT_PERIOD=4')
    whole, parted = tmp_path / 'whole', tmp_path / 'parted'
    assert finetune(made, whole, *flags, steps=8).returncode == 0
    for steps in (4, 8):
        result = finetune(made, parted, *flags, steps=steps)
        assert result.returncode == 0, result.stderr[-2000:]
    assert 'continuing from step 4' in result.stdout
    saved = checkpoint_arrays(parted, 8)
    assert any('embedding' in path for path in saved if 'prompt' not in path) == (part in OF_ALL_PARAMETERS)
    if part != 'adalora':  # whose budget depends on the number of steps
        at_once = checkpoint_arrays(whole, 8)
        assert saved.keys() == at_once.keys() and all(np.array_equal(saved[path], at_once[path]) for path in saved)
    predictions = [json.loads(line) for line in (parted / 'predictions.jsonl').read_text().splitlines()]
    loaded = load(parted).predict([row['text'] for row in predictions])
    for row, p in zip(predictions, loaded, strict=True):
        assert all(abs(p[label] - value) < 1e-4 for label, value in row['probabilities'].items())
    refused = finetune(made, parted, *flags, '--accept_changes', base='other', steps=9)
    assert (refused.returncode == 0) == (part == 'full')  # which has no base
