"""Embeddings from a table to the report, `infer`, Python and the next run."""

import json

import numpy as np

from palm_jax import api
from tests.support.programs import run_here
from tests.support.runs import finetune

HEAD = '--gin_file=gin/heads/embedding.gin'


def test_a_table_of_texts_becomes_a_model_that_embeds(made, tmp_path):
    pairs = tmp_path / 'pairs.csv'
    rows = [(f'number {i} is odd', f'number {i + j} is odd', 5 - j) for i in range(3, 13) for j in range(5)]
    pairs.write_text('text,second_text,score\n' + ''.join(f'{a},{b},{score}\n' for a, b, score in rows))
    flags = HEAD, f'--gin.PAIRS_FILES={pairs}', '--gin.BEST_METRIC=spearman', '--gin.EVAL_PERIOD=2'
    result = finetune(made, tmp_path / 'run', *flags, steps=4)
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert -1 <= summary['spearman'] <= 1 and -5 < summary['uniformity'] < 0 and summary['held_out_examples'] > 10
    assert 'spearman' in result.stdout and '50 pairs' in result.stdout
    model = api.load(tmp_path / 'run')
    texts = ['number 1 is odd', 'number 2 is even']
    vectors = model.embed(texts)
    np.testing.assert_allclose(vectors, model.predict(texts), atol=1e-6)
    (tmp_path / 'texts.csv').write_text('text\n' + '\n'.join(texts) + '\n')
    flags = f'--gin_file={tmp_path}/run/config.gin', f'--input={tmp_path}/texts.csv', f'--output={tmp_path}/out.jsonl'
    result = run_here('palm_jax.infer', *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    written = [json.loads(line)['embedding'] for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
    np.testing.assert_allclose(written, vectors, atol=1e-5)
    result = run_here('palm_jax.export', flags[0], '--format=stablehlo', str(tmp_path / 'exported'))
    assert result.returncode == 0 and (tmp_path / 'exported' / 'model.stablehlo').is_file(), result.stderr[-3000:]
