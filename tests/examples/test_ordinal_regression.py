"""A head from outside the package is trained, evaluated, asked for predictions and served."""

import json
import re
import signal
from pathlib import Path

import httpx
import jax
import numpy as np
import pytest

from examples.ordinal_regression.ordinal import CoralHead, OrdinalLabel, OrdinalLoss
from palm_jax import api
from palm_jax.cli import eval as evaluate
from palm_jax.cli import infer, train
from palm_jax.errors import UserError
from palm_jax.models.palm import PaLM
from palm_jax.training import state

ROOT = Path(__file__).parents[2]
TRUSTED = 'examples.ordinal_regression'
NAMES = ['bad', 'fair', 'good']
TINY = (
    '--gin_file=gin/pretrain_tiny.gin', '--gin.NUM_LAYERS=1', '--gin.D_MODEL=16', '--gin.NUM_HEADS=2',
    '--gin.HEAD_DIM=8', '--gin.VOCABULARY=bytes', '--gin.VOCABULARY_SIZE=259', '--gin.BATCH_SIZE=4',
    "--gin.TASK_FEATURE_LENGTHS={'targets': 32}", '--gin.TRAIN_STEPS=1', '--gin.MAX_NEW_TOKENS=2',
    '--gin.EVAL_BATCHES=1', '--gin.WRITERS=[]',
)  # fmt: skip


@pytest.fixture
def batch():
    tokens = np.random.default_rng(0).integers(3, 61, (6, 12)).astype(np.int32)
    return {
        'decoder_input_tokens': tokens,
        'decoder_segment_ids': np.ones_like(tokens),
        'labels': np.array([0, 1, 2, 3, 0, 3], np.int32),
        'label_weights': np.array([1, 1, 0.5, 2, 0, 1], np.float32),
    }


def test_the_loss_is_that_of_the_paper(micro, batch):
    """Equation 4 with importance weights of 1: -Σ_k log σ(s_k)·[y > r_k] + (log σ(s_k) - s_k)·(1 - [y > r_k])."""
    model = PaLM(micro()[0].arch, head=CoralHead(num_outputs=3))
    params = state.unbox(state.init_params(model, jax.random.key(0)))
    params['head']['bias'] = np.array([0.7, 0.1, -0.4], np.float32)
    assert params['head']['kernel'].shape == (24, 1)
    inputs = batch['decoder_input_tokens'], None, batch['decoder_segment_ids']
    s_BK = np.asarray(model.apply({'params': params}, *inputs, method='scores'), np.float64)
    np.testing.assert_allclose(np.diff(s_BK), np.tile([-0.6, -0.5], (6, 1)), atol=1e-5)  # one score, three thresholds
    log_sigma = -np.log1p(np.exp(-s_BK))
    is_above = batch['labels'][:, None] > np.arange(3)
    loss_B = -np.where(is_above, log_sigma, log_sigma - s_BK).sum(axis=1)
    total, metrics = OrdinalLoss()(model, params, batch)
    weights = batch['label_weights']
    np.testing.assert_allclose(total, (loss_B * weights).sum(), rtol=1e-5)
    error_B = np.abs((s_BK > 0).sum(axis=1) - batch['labels'])
    assert metrics['loss'].value() == pytest.approx((loss_B * weights).sum() / weights.sum(), rel=1e-5)
    assert metrics['absolute_error'].value() == pytest.approx((error_B * weights).sum() / weights.sum(), rel=1e-5)


def test_probabilities_are_differences_of_thresholds_and_decisions_count_them():
    kind, scores = OrdinalLabel(), np.array([[2.0, -1.0], [-3.0, -4.0], [3.0, 1.0], [0.5, 0.4]])
    above = 1 / (1 + np.exp(-scores))
    p = kind.probabilities(scores)
    np.testing.assert_allclose(p, np.stack([1 - above[:, 0], above[:, 0] - above[:, 1], above[:, 1]], axis=1))
    said = [kind.predict(row, NAMES) for row in scores]
    assert [kind.to_json(prediction)['predicted'] for prediction in said] == ['fair', 'bad', 'good', 'good']
    assert kind.to_response(said[0])['labels'] == ['fair'] and kind.num_scores(3) == 2
    evaluation = kind.evaluate(scores, np.array([1, 0, 0, 2]), NAMES)
    assert evaluation.metrics['accuracy'] == 0.75 and evaluation.metrics['absolute_error'] == 0.5
    assert list(evaluation.badness) == [-np.inf, -np.inf, 2, -np.inf]


def test_it_trains_evaluates_predicts_and_is_served(tmp_path, monkeypatch, capsys, forks):
    monkeypatch.chdir(ROOT)  # gin imports examples/ from the working directory
    (tmp_path / 'text.txt').write_text('\n'.join(f'film {i} was {NAMES[i % 3]}.' for i in range(200)))
    rows = [(f'film {i} was {NAMES[i % 3]}', NAMES[i % 3]) for i in range(90)]
    table, base, run = tmp_path / 'reviews.csv', tmp_path / 'base', tmp_path / 'run'
    table.write_text('text,label\n' + ''.join(f'{text},{label}\n' for text, label in rows))
    assert train.main([*TINY, f'--gin.TRAIN_FILES={tmp_path}/text.txt', f'--gin.MODEL_DIR={base}']) == 0
    flags = (
        '--gin_file=gin/finetune_lora.gin', '--gin_file=examples/ordinal_regression/ordinal_regression.gin',
        f'--gin.INITIAL_CHECKPOINT_PATH={base}', f'--gin.TRAIN_FILES={table}', f'--gin.LABELS={NAMES}',
        f'--gin.MODEL_DIR={run}', '--gin.TRAIN_STEPS=2', '--gin.BATCH_SIZE=8', '--gin.WRITERS=[]',
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 24}", '--gin.CLASS_WEIGHTS=balanced',
    )  # fmt: skip
    assert train.main(flags) == 0
    summary = json.loads((run / 'summary.json').read_text())
    assert {'accuracy', 'absolute_error', 'quadratic_kappa', 'accuracy_interval'} <= summary.keys()
    assert (run / 'confusion.png').stat().st_size > 0

    assert evaluate.main([f'--gin_file={run}/config.gin', f'--trust_modules={TRUSTED}']) == 0
    again = json.loads((run / 'eval.json').read_text())
    assert f'{summary["absolute_error"]:.4f}' in capsys.readouterr().out
    assert summary['absolute_error'] == pytest.approx(_metrics(again)['absolute_error'])

    output = tmp_path / 'rated.jsonl'
    arguments = [f'--gin_file={run}/config.gin', f'--input={table}', f'--output={output}']
    with pytest.raises(UserError, match=r'import ordinal\n.*--trust_modules=examples\.ordinal_regression\.ordinal '):
        infer.main(arguments)
    assert infer.main([*arguments, f'--trust_modules={TRUSTED}']) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(lines) == 90 and {line['predicted'] for line in lines} <= set(NAMES)
    (prediction,) = api.load(run, trust_modules=[TRUSTED]).predict([rows[0][0]])
    assert lines[0]['predicted'] == prediction['predicted']
    assert lines[0]['probabilities'] == pytest.approx(prediction['probabilities'], abs=1e-5)

    pytest.importorskip('fastapi', reason='pip install "palm_jax[serve]"')
    served = _ask_server(forks, run, [rows[0][0], rows[1][0]])
    assert served[0]['label'] == prediction['predicted'] and served[0]['labels'] == [prediction['predicted']]
    assert served[0]['probabilities'] == pytest.approx(prediction['probabilities'], abs=1e-5)
    assert served[1]['label'] == lines[1]['predicted']


def _metrics(contents):
    """The metrics of the only part that `palm-jax eval` has evaluated."""
    (evaluation,) = next(value for value in contents.values() if isinstance(value, dict)).values()
    return evaluation['metrics']


def _ask_server(forks, run, texts):
    flags = ('--port=0', f'--model=reviews={run}', f'--trust_modules={TRUSTED}')
    process = forks.open('palm_jax.cli.serve', *flags)
    try:
        output, url = '', None
        while not (url and 'API key' in output):
            line = process.stdout.readline()
            output += line
            assert line, output
            url = url or ((found := re.search(r'chat page +(http://\S+?)/ ', line)) and found[1])
        transport = httpx.HTTPTransport(retries=100)  # it listens before it answers
        with httpx.Client(transport=transport, timeout=60) as client:
            answer = client.post(f'{url}/v1/classify', json={'model': 'reviews', 'input': texts})
        assert answer.status_code == 200, answer.text
        return answer.json()['data']
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
