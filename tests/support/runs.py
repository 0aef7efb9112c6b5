"""Small runs of `palm_jax.train`: their command, and what they leave in MODEL_DIR."""

import json
import sys

import jax
import numpy as np

from tests.support.paths import ROOT
from tests.support.programs import run_here

MICRO = (
    '--gin_file=gin/pretrain_tiny.gin',
    '--gin.NUM_LAYERS=2',
    '--gin.D_MODEL=32',
    '--gin.NUM_HEADS=2',
    '--gin.HEAD_DIM=16',
    '--gin.VOCABULARY=bytes',
    '--gin.VOCABULARY_SIZE=259',
    '--gin.BATCH_SIZE=4',
    '--gin.DROPOUT_RATE=0.1',
    '--gin.LOG_PERIOD=1',
    '--gin.EVAL_PERIOD=7',
    '--gin.EVAL_BATCHES=1',
    '--gin.MAX_NEW_TOKENS=8',
    "--gin.TASK_FEATURE_LENGTHS={'targets': 64}",
)


def arguments(text, model_dir, *flags):
    """Arguments of `palm_jax.train` for a micro run on a file of text."""
    return (*MICRO, f'--gin.TRAIN_FILES={text}', f'--gin.MODEL_DIR={model_dir}', *flags)


def command(text, model_dir, *flags):
    """The command of a micro run in a process of its own."""
    return [sys.executable, '-m', 'palm_jax.train', *arguments(text, model_dir, *flags)]


def run(text, model_dir, *flags):
    """Trains a micro run in this process; returns a `subprocess.CompletedProcess`."""
    return run_here('palm_jax.train', *arguments(text, model_dir, *flags))


def finetune(made, model_dir, *flags, base='base', table='classes.csv', steps=30, cwd=ROOT):
    """Fine-tunes a base of the fixture `made` with LoRA in this process; returns a `subprocess.CompletedProcess`."""
    return run_here(
        'palm_jax.train',
        '--gin_file=gin/finetune_lora.gin',
        f'--gin.INITIAL_CHECKPOINT_PATH={made / base}',
        *([] if table is None else [f'--gin.TRAIN_FILES={made / table}']),
        f'--gin.MODEL_DIR={model_dir}',
        f'--gin.TRAIN_STEPS={steps}',
        '--gin.LEARNING_RATE=1e-2',
        '--gin.LOG_PERIOD=1',
        '--gin.EVAL_PERIOD=10',
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 32}",
        *flags,
        cwd=cwd,
    )


def losses(model_dir):
    """(step, training loss) of every logged step."""
    records = [json.loads(line) for line in (model_dir / 'metrics.jsonl').read_text().splitlines()]
    return [(r['step'], r['train/loss']) for r in records if 'train/loss' in r]


def checkpoint_arrays(model_dir, step=None):
    """All arrays of a checkpoint (default: of the newest) by their path."""
    import orbax.checkpoint as ocp

    folder = model_dir / 'checkpoints'
    step = max(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if step is None else step
    tree = ocp.StandardCheckpointer().restore((folder / str(step) / 'state').absolute())
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(tree)}
