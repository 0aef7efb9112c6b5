"""How the runs beside this file were made, with the code of the commit that added them.

`python tests/goldens/runs/make.py FOLDER` makes them again in a new folder, at that commit: later code has other
names. Nothing imports this file.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MICRO = [
    '--gin_file=gin/pretrain_tiny.gin', '--gin.NUM_LAYERS=2', '--gin.D_MODEL=16', '--gin.NUM_HEADS=2',
    '--gin.HEAD_DIM=8', '--gin.VOCABULARY=bytes', '--gin.VOCABULARY_SIZE=259', '--gin.TRAIN_FILES=text.txt',
    "--gin.TASK_FEATURE_LENGTHS={'targets': 64}", '--gin.SAMPLE_TOKENS=8', '--gin.KEEP_CHECKPOINTS=1',
]  # fmt: skip
FINETUNE = [
    '--gin_file=gin/finetune_lora.gin', '--gin.INITIAL_CHECKPOINT_PATH=base', '--gin.LEARNING_RATE=1e-2',
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 32}", '--gin.KEEP_CHECKPOINTS=1',
]  # fmt: skip
# By MODEL_DIR, the arguments of `python -m palm_jax.train` besides it.
RUNS = {
    'base': [*MICRO, '--gin.TRAIN_STEPS=400'],
    'classifier': [*FINETUNE, '--gin.TRAIN_FILES=classes.csv', '--gin.TRAIN_STEPS=60', '--gin.LORA_RANK=2'],
    'tagger': [
        *FINETUNE, '--gin.TRAIN_FILES=tags.conll', '--gin_file=gin/heads/tagging.gin', '--gin.LORA_RANK=2',
        '--gin.lora.LoRA.decomposed=True', '--gin.TRAIN_STEPS=40', '--gin.EVAL_PERIOD=10',
        '--gin.BEST_MEASURE=entity_f1', '--gin.PATIENCE=2',
    ],
    'writer': [
        *FINETUNE, '--gin.TRAIN_FILES=classes.csv', '--gin_file=gin/heads/text_to_text.gin',
        '--gin_file=gin/peft/full.gin', '--gin_file=gin/optim/muon.gin', '--gin.INPUT={text}', '--gin.TARGET={label}',
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 8}", '--gin.EVAL_EXAMPLES=4', '--gin.TRAIN_STEPS=60',
    ],
    'multilabel': [
        *FINETUNE, '--gin.TRAIN_FILES=many.csv', '--gin_file=gin/heads/multilabel.gin', '--gin.TRAIN_STEPS=20',
        '--gin_file=gin/peft/prefix.gin', '--gin.PREFIX_LENGTH=4',
    ],
    'regressor': [
        *FINETUNE, '--gin.TRAIN_FILES=numbers.csv', '--gin_file=gin/heads/regression.gin', '--gin.TRAIN_STEPS=20',
        '--gin_file=gin/peft/adalora.gin', '--gin.ADALORA_RANK=4', '--gin.ADALORA_TARGET_RANK=2',
    ],
}  # fmt: skip
INTERRUPTED = [
    *MICRO, '--gin.TRAIN_STEPS=40', '--gin.LOG_PERIOD=4', '--gin.DROPOUT_RATE=0.1', '--gin.EVAL_PERIOD=20',
    '--gin.CHECKPOINT_PERIOD=100', '--gin.MODEL_DIR=interrupted',
]  # fmt: skip
LEFT_OUT = ('tensorboard', '*.png', '*.html')


def call(name, *arguments):
    assert importlib.import_module(f'palm_jax.{name}').main([str(argument) for argument in arguments]) == 0


def interrupt():
    """A pretraining run that SIGTERM stops between two lines of its metrics, and the losses of one that went on."""
    metrics = Path('interrupted', 'metrics.jsonl')

    def losses():
        records = map(json.loads, metrics.read_text().splitlines())
        return {record['step']: record['train/loss'] for record in records if 'train/loss' in record}

    call('train', *INTERRUPTED)
    whole = losses()
    shutil.rmtree('interrupted')
    run = subprocess.Popen([sys.executable, '-m', 'palm_jax.train', *INTERRUPTED])
    while not metrics.exists() or 'train/loss' not in metrics.read_text():
        time.sleep(0.005)
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGTERM
    stopped = losses()
    assert stopped == {step: loss for step, loss in whole.items() if step in stopped}
    following = {step: loss for step, loss in whole.items() if step not in stopped}
    Path('following_losses.json').write_text(json.dumps(following, indent=2) + '\n')


def write_tables():
    Path('text.txt').write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(400)) + '\n')
    rows = [(f'number {i} is {"odd" if i % 2 else "even"}', 'no' if i % 2 else 'yes', i) for i in range(120)]
    for name, of in {
        'classes.csv': lambda label, i: label,
        'numbers.csv': lambda label, i: i / 120,
        'many.csv': lambda label, i: label + ('|small' if i < 40 else ''),
    }.items():
        Path(name).write_text('text,label\n' + ''.join(f'{text},{of(label, i)}\n' for text, label, i in rows))
    Path('tags.conll').write_text(''.join(f'{"AB"[i % 2]}nn{i} B-PER\nis O\n{i} B-NUM\n\n' for i in range(60)))


def main(folder):
    os.mkdir(folder)
    os.chdir(folder)
    write_tables()
    for name, arguments in RUNS.items():
        call('train', *arguments, f'--gin.MODEL_DIR={name}')
    importlib.import_module('palm_jax.trained').load('classifier').save('saved')
    call('export', '--format=hf', '--gin_file=base/config.gin', 'exported_base')
    call('export', '--format=peft', '--base=exported_base', '--gin_file=classifier/config.gin', 'exported_adapter')
    interrupt()
    for pattern in LEFT_OUT:
        for path in list(Path().rglob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in Path().rglob('versions.json'):
        kept = {name: version for name, version in json.loads(path.read_text()).items() if name != 'platform'}
        path.write_text(json.dumps(kept, indent=2) + '\n')


if __name__ == '__main__':
    main(sys.argv[1])
