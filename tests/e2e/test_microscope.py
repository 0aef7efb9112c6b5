"""The batch of a step of any run, and the examples of a table in order of trouble."""

import json
import re
import shutil

import numpy as np
import pytest

from palm_jax import api
from palm_jax.training.head_losses import ClassLoss
from tests.support.programs import run_here
from tests.support.runs import finetune, losses


def test_a_step_shows_what_was_learned_from(made, tmp_path):
    config = made / 'base' / 'config.gin'
    page = tmp_path / 'step_2.html'
    flags = f'--gin_file={config}', '--step=2', f'--output={page}'
    result = run_here('palm_jax.cli.inspect', 'step', *flags, '--rows=99')
    assert result.returncode == 0 and 'step 2: sequences 4 to 7, 4 of 4 shown' in result.stdout, result.stderr
    found = json.loads(page.with_suffix('.json').read_text())
    assert page.exists() and [row['number'] for row in found['rows']] == [4, 5, 6, 7]
    data = api.load(made / 'base').data
    for row, features in zip(found['rows'], data.batch(4, 4)['decoder_target_tokens'], strict=True):
        assert ''.join(row['tokens']) == ''.join(data.vocabulary.decode([int(t)]) for t in features)
        counted = [x for x, w in zip(row['losses'], row['weights'], strict=True) if w]
        assert abs(np.mean(counted) - row['loss']) < 0.02 * row['loss'] + 0.02  # the loss has a z-loss besides
    assert abs(np.mean([row['loss'] for row in found['rows']]) - dict(losses(made / 'base'))[2]) < 1.0
    late = run_here('palm_jax.cli.inspect', 'step', *flags[:1], '--step=3')
    assert late.returncode == 2 and '--step=3: the run has steps 1 to 2' in late.stderr


def test_examples_are_ranked(made, tmp_path):
    rows = [f'number {i} is {("even", "odd")[i % 2]},{("yes", "no")[i % 2]}' for i in range(60)]
    rows += ['number 12 is even,no', 'number 7  is odd,no']
    (tmp_path / 'table.csv').write_text('\n'.join(['text,label', *rows]) + '\n')
    run = tmp_path / 'run'
    assert finetune(made, run, table=tmp_path / 'table.csv', steps=20).returncode == 0
    flags = [f'--gin_file={run / "config.gin"}']
    result = run_here('palm_jax.cli.rank_examples', *flags)
    assert result.returncode == 0 and 'By loss' in result.stdout and 'Near-duplicates' in result.stdout, result.stderr
    assert 'Labels that are likely wrong\n' in result.stdout  # listed, or why there are none
    found = json.loads((run / 'ranked.json').read_text())
    values = [example['loss'] for example in found['examples']]
    assert values == sorted(values, reverse=True)
    model = api.load(run)
    features = model.data.encode('train')
    assert len(values) == len(features['labels'])
    _, metrics = ClassLoss()(model.model, model.params, features)
    assert abs(np.mean(values) - metrics['loss'].value()) < 1e-3
    same = {tuple(sorted((p['first']['text'], p['second']['text']))) for p in found['near_duplicates']}
    assert ('number 12 is even', 'number 12 is even') in same
    corpus = f'--corpus={made / "base" / "config.gin"}'
    result = run_here('palm_jax.cli.contamination', *flags, corpus, '--words=3', '--near=0.3')
    assert result.returncode == 0 and re.search(r'dirty +\d', result.stdout), result.stderr
    found = json.loads((run / 'contamination.json').read_text())
    assert (
        sum(part['count'] for part in found['parts'].values())
        == len(found['texts'])
        == len(model.data.validation_examples)
    )
    assert f'{len(found["near_duplicates"])} of {len(found["texts"])} texts have a near-duplicate' in result.stdout
    assert all(pair['similarity'] >= 0.3 for pair in found['near_duplicates'])


@pytest.mark.slow
def test_examples_are_ranked_by_gradient_and_disagreement(made, tmp_path):
    run = tmp_path / 'run'
    assert finetune(made, run, steps=3).returncode == 0
    flags = [f'--gin_file={run / "config.gin"}']
    by_gradient = run_here('palm_jax.cli.rank_examples', *flags, '--by=gradient')
    assert by_gradient.returncode == 0 and 'By gradient' in by_gradient.stdout, by_gradient.stderr
    itself = run_here('palm_jax.cli.rank_examples', *flags, '--by=disagreement', f'--other={run}')
    assert itself.returncode == 2 and 'is this model itself' in itself.stderr
    shutil.copytree(run, tmp_path / 'copy')
    other = f'--other={tmp_path / "copy"}'
    together = run_here('palm_jax.cli.rank_examples', *flags, '--by=disagreement', other)
    assert together.returncode == 0, together.stderr
    assert {e['disagreement'] for e in json.loads((run / 'ranked.json').read_text())['examples']} == {0.0}


def test_what_cannot_be_ranked_is_refused(made):
    flags = [f'--gin_file={made / "base" / "config.gin"}']
    alone = run_here('palm_jax.cli.rank_examples', *flags, '--by=disagreement')
    assert alone.returncode == 2 and '--other=MODEL_DIR' in alone.stderr
    corpus = run_here('palm_jax.cli.rank_examples', *flags)
    assert corpus.returncode == 2 and 'palm-jax inspect step' in corpus.stderr
