"""What whole fine-tuning runs share: a base made here, tables, and the command."""

import os
import subprocess
import sys

import pytest

from tests.e2e.test_train import MICRO, ROOT


def run(*arguments, cwd=ROOT):
    command = [sys.executable, '-m', 'palm_jax.train', *arguments]
    return subprocess.run(command, cwd=cwd, env=os.environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope='session')
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


def finetune(made, model_dir, *flags, base='base', table='classes.csv', steps=30, cwd=ROOT):
    return run(
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
