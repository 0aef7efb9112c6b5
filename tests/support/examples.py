"""Whole runs of the examples in this process, at micro size."""

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
