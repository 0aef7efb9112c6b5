"""Shared by the tests of the examples: whole runs in this process, at micro size."""

import pytest

from tests.support.programs import run_here

MICRO = (
    *('NUM_LAYERS=2', 'D_MODEL=32', 'NUM_HEADS=2', 'HEAD_DIM=16', 'VOCABULARY=bytes', 'VOCABULARY_SIZE=387'),
    *('BATCH_SIZE=4', 'LOG_PERIOD=1', 'EVAL_BATCHES=1', "TASK_FEATURE_LENGTHS={'targets': 64}"),
)


def run(gin_file, model_dir, *bindings):
    """Trains as `python -m palm_jax.train` does, from the root of the repository."""
    flags = [f'--gin.{binding}' for binding in (f'MODEL_DIR={model_dir}', *bindings)]
    result = run_here('palm_jax.train', f'--gin_file={gin_file}', *flags)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture(scope='session')
def text(tmp_path_factory):
    """A file of text to pretrain on."""
    path = tmp_path_factory.mktemp('examples') / 'text.txt'
    path.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(1500)))
    return path


@pytest.fixture(scope='session')
def base(text):
    """The MODEL_DIR of a pretrained micro model."""
    folder = text.with_name('base')
    run('gin/pretrain_tiny.gin', folder, *MICRO, f'TRAIN_FILES={text}', 'TRAIN_STEPS=2', 'MAX_NEW_TOKENS=4')
    return folder
