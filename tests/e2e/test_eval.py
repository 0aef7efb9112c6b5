"""Measures of a trained model: those of its own run again, and those of a seqio task, with intervals."""

import json
import shutil

import pytest

from tests.support.paths import ROOT
from tests.support.programs import run_here

TASK = """
import seqio
import tensorflow as tf

def exact(targets, predictions):
    return {'exact': 100.0 * sum(t == p for t, p in zip(targets, predictions)) / len(targets)}

def mean_score(targets, scores):
    return {'mean_score': sum(scores) / len(scores)}

def source(split, shuffle_files=False, seed=None):
    rows = [{'inputs': f'the square of {i} is', 'targets': f' {i * i}.'} for i in range(12)]
    return tf.data.Dataset.from_tensor_slices({k: [r[k] for r in rows] for k in rows[0]})

for name, metrics in (('squares', [exact, mean_score]), ('no_metrics', [])):
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(source, splits=['train', 'validation']),
        preprocessors=[seqio.preprocessors.tokenize],
        output_features={f: seqio.Feature(seqio.ByteVocabulary()) for f in ('inputs', 'targets')},
        postprocess_fn=lambda text, example=None, is_target=False: text.strip(),
        metric_fns=metrics,
    )
seqio.MixtureRegistry.add('mixed', [('squares', 1.0)])
"""


def evaluate(*arguments, cwd=ROOT):
    return run_here('palm_jax.cli.eval', *arguments, cwd=cwd)


def test_the_report_of_the_run_is_made_again(classifier, tmp_path):
    shutil.copytree(classifier, tmp_path / 'run')
    result = evaluate(f'--gin_file={tmp_path}/run/config.gin')
    assert result.returncode == 0, result.stderr[-3000:]
    measured = json.loads((tmp_path / 'run/eval.json').read_text())['measured']['held-out part']
    summary = json.loads((tmp_path / 'run/summary.json').read_text())
    for name in ('loss', 'accuracy', 'macro_f1'):
        assert measured['metrics'][name] == pytest.approx(summary[name], abs=1e-5)
    assert measured['intervals']['accuracy'] == pytest.approx(summary['accuracy_interval'])
    low, high = measured['intervals']['accuracy']
    assert low <= measured['metrics']['accuracy'] <= high and '95% interval' in result.stdout
    refused = evaluate(f'--gin_file={tmp_path}/run/config.gin', '--task=squares')
    assert refused.returncode == 2 and 'Leave out --task' in refused.stderr


def test_what_int8_costs_in_loss(made, tmp_path):
    losses = []
    for weights in ('stored', 'int8'):
        output = f'--output={tmp_path}/{weights}.json'
        result = evaluate(f'--gin_file={made}/base/config.gin', f'--gin.DECODING_WEIGHTS={weights}', output)
        assert result.returncode == 0, result.stderr[-3000:]
        losses.append(json.loads((tmp_path / f'{weights}.json').read_text())['measured']['held-out part']['metrics'])
    stored, rounded = (of['loss'] for of in losses)
    assert stored != rounded and rounded == pytest.approx(stored, rel=0.01)


def test_a_seqio_task_with_its_own_metrics(made, tmp_path):
    from palm_jax.api import loading
    from palm_jax.inference.generate import Sampler

    (tmp_path / 'square_tasks.py').write_text(TASK)
    (tmp_path / 'mine.gin').write_text('import square_tasks\n')
    files = [f'--gin_file={made}/base/config.gin', f'--gin_file={tmp_path}/mine.gin', '--gin.TEMPERATURE=0.0']
    command = [*files, '--gin.MAX_NEW_TOKENS=4', '--task=mixed', f'--output={tmp_path}/scores.json']
    result = evaluate(*command, '--examples=10', cwd=tmp_path)  # where the user's module is
    assert result.returncode == 0, result.stderr[-3000:]
    measured = json.loads((tmp_path / 'scores.json').read_text())['measured']['squares']
    assert measured['examples'] == 10
    model = loading.load(made / 'base')
    pairs = [(f'the square of {i} is', f' {i * i}.') for i in range(10)]
    scores = [likelihood.total for likelihood in model.score(pairs)]
    assert measured['metrics']['mean_score'] == pytest.approx(sum(scores) / 10, rel=1e-5)
    low, high = measured['intervals']['mean_score']
    assert low < measured['metrics']['mean_score'] < high and min(scores) <= low
    written = model.generate([prompt for prompt, _ in pairs], Sampler(max_tokens=4, temperature=0.0))
    right = sum(text.strip() == target.strip() for text, (_, target) in zip(written, pairs, strict=True))
    assert measured['metrics']['exact'] == pytest.approx(10.0 * right)
    solved = evaluate(*command, '--examples=3', '--shots=1', cwd=tmp_path)
    assert solved.returncode == 0, solved.stderr[-3000:]
    shot = json.loads((tmp_path / 'scores.json').read_text())['measured']['squares']
    assert shot['examples'] == 3 and shot['metrics']['mean_score'] != measured['metrics']['mean_score']
    crowded = evaluate(*command, '--examples=3', '--shots=11', cwd=tmp_path)
    assert crowded.returncode == 0, crowded.stderr[-3000:]
    assert '3 of 3 prompts are longer than' in crowded.stderr and 'beginnings are dropped' in crowded.stderr
    mistakes = {
        ('--shots=2',): '--shots requires --task',
        ('--task=squares', '--examples=0'): '--examples: 0 must be a whole number of at least 1',
        ('--task=squars',): 'Did you mean squares?',
        ('--task=squares', '--split=test'): "has no split 'test'; it has: train, validation",
        ('--task=no_metrics',): 'has no metrics',
        ('--task=python_stdlib',): 'has no metrics',
    }
    for flags, message in mistakes.items():
        refused = evaluate(*files, *flags, cwd=tmp_path)
        assert refused.returncode == 2 and message in refused.stderr and 'Traceback' not in refused.stderr
