"""Whole runs with each objective: a pulse, a report, and something learned."""

import json

import pytest

from tests.support.programs import run_here
from tests.support.runs import MICRO

DENOISING = ('prefix_lm', 'span_corruption', 'masked_lm', 'next_sentence', 'ul2', 'u_palm')


def train(name, folder, steps, *flags):
    folder.mkdir(exist_ok=True)
    text = folder / 'text.txt'
    text.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(3000)))
    flags = (f'--gin.TRAIN_FILES={text}', f'--gin.MODEL_DIR={folder / name}', f'--gin.TRAIN_STEPS={steps}', *flags)
    size = ('--gin.VOCABULARY_SIZE=387', '--gin.EVAL_PERIOD=1000')
    micro = [flag for flag in MICRO if 'MAX_NEW_TOKENS' not in flag]  # which a denoiser has not
    result = run_here('palm_jax.train', *micro, f'--gin_file=gin/objectives/{name}.gin', *size, *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    return result, json.loads((folder / name / 'summary.json').read_text())


@pytest.mark.parametrize('name', ['next_sentence', 'ul2'])
def test_an_objective_is_one_gin_file(name, tmp_path):
    result, summary = train(name, tmp_path, 3)
    for shown in ('best constant', 'hidden ', 'model ', 'validation loss', 'TRAIN_STEPS=6'):
        assert shown in result.stdout, shown
    assert ('label accuracy' in result.stdout) == (name == 'next_sentence')
    assert len(summary['examples']) == 3 and (tmp_path / name / 'loss.png').stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize('name', DENOISING)
def test_an_objective_learns_more_than_the_best_constant(name, tmp_path):
    _, summary = train(name, tmp_path, 1200, '--gin.LEARNING_RATE=3e-2', '--gin.DROPOUT_RATE=0.0')
    assert summary['loss'] < 0.9 * summary['best_constant']


@pytest.mark.slow
def test_a_causal_model_continues_as_u_palm(tmp_path):
    train('causal_lm', tmp_path, 3, '--gin.EXTRA_IDS=128')
    base = f'--gin.INITIAL_CHECKPOINT_PATH={tmp_path / "causal_lm"}'
    result, _ = train('u_palm', tmp_path, 3, base)
    assert 'starting from the parameters of' in result.stdout
