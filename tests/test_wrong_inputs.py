"""Wrong inputs of every program: each ends in one message that names what is wrong, where, and what to type.

A case is a command, with {t} for a folder of inputs, and parts of its message. `TINY` and `FINETUNE` are complete
commands of runs that are explained, not trained. Wrong rows of tables have tests of their own
(`data/readers/test_bad_input.py`), as has every value of every binding (`configuration/test_wrong_values.py`).
"""

import contextlib
import difflib
import io
import json
import re
import shlex

import pytest

from palm_jax.cli import main as programs
from palm_jax.errors import UserError
from tests.support.paths import ROOT
from tests.support.wrapped import write_teacher

TINY = (
    'train --gin_file=gin/pretrain_tiny.gin --explain --gin.VOCABULARY=bytes --gin.MODEL_DIR={t}/new '
    '--gin.TRAIN_FILES={t}/text.txt'
)
FINETUNE = (
    'train --gin_file=gin/finetune_lora.gin --explain --gin.TRAIN_FILES={t}/rows.csv --gin.INITIAL_CHECKPOINT_PATH={b}'
)
PAIRS = f'{FINETUNE} --gin_file=gin/heads/text_to_text.gin --gin.TRAIN_FILES={{t}}/pairs.jsonl'
TAGS = f'{FINETUNE} --gin_file=gin/heads/tagging.gin --gin.TRAIN_FILES={{t}}/rows.conll'
RUN = '--gin_file={t}/run/config.gin'

PROGRAMS = [
    # The name of a program.
    ('trian', "no program 'trian'", 'Did you mean train?'),
    ('predict --gin_file=x', 'Did you mean infer?'),
    ('evaluate', 'Did you mean eval?'),
    ('finetune', 'Did you mean train?'),
    ('help trian', 'Did you mean train?'),
    ('--gin_file=gin/pretrain_tiny.gin', 'The program comes first', 'palm-jax train --gin_file=gin/pretrain_tiny.gin'),
    ('gin/pretrain_tiny.gin', 'no program', 'usage: palm-jax <program>'),
    # Missing arguments.
    ('train', '--gin_file is missing', 'gin/pretrain_tiny.gin', 'Example: palm-jax train --gin_file='),
    ('eval', '--gin_file is missing', 'runs/finetuned/config.gin'),
    ('infer', '--gin_file is missing', '--input is missing', '--output is missing', 'Example: palm-jax infer'),
    ('infer --gin_file=a/config.gin --input=a.txt', '--output is missing: .jsonl file to write'),
    ('serve', '--model is missing: [NAME=]MODEL_DIR', 'palm-jax serve --model=runs/tiny'),
    ('export --gin_file=a/config.gin', 'directory is missing: new or empty directory'),
    ('import a', 'model_dir is missing', 'INITIAL_CHECKPOINT_PATH'),
    ('compare', 'MODEL_DIR is missing', 'palm-jax compare runs/first runs/second'),
    ('compare a', 'MODEL_DIR', 'palm-jax compare runs/first runs/second'),
    ('checkpoint', 'command is missing', 'palm-jax checkpoint ls runs/tiny'),
    ('checkpoint diff a', 'PATH', 'checkpoint diff --help'),
    ('vocabulary', '--output is missing: .model file', 'palm-jax vocabulary --train_files='),
    ('inspect', 'name is missing: name of the task', 'palm-jax inspect python_stdlib'),
    ('cache', 'name is missing: name of the task', 'palm-jax cache python_stdlib'),
    ('compile-for --topology=v5e:2x4', '--gin_file is missing'),
    ('compile-for --gin_file=gin/pretrain_tiny.gin', '--topology is missing'),
    # Flags that do not exist.
    ('train --gin_fil=gin/pretrain_tiny.gin', 'no flag --gin_fil.', 'Did you mean --gin_file=gin/pretrain_tiny.gin?'),
    ('train --gin-file=gin/pretrain_tiny.gin', 'Did you mean --gin_file=gin/pretrain_tiny.gin?'),
    ('train -gin_file=gin/pretrain_tiny.gin', 'Did you mean --gin_file=gin/pretrain_tiny.gin?'),
    (f'{TINY} --TRAIN_STEPS=3', 'begins with --gin.', 'Did you mean --gin.TRAIN_STEPS=3?'),
    (f'{TINY} --train_steps=3', 'Did you mean --gin.TRAIN_STEPS=3?'),
    (f'{TINY} gin.TRAIN_STEPS=3', 'Did you mean --gin.TRAIN_STEPS=3?'),
    (f'{TINY} TRAIN_STEPS=3', 'Did you mean --gin.TRAIN_STEPS=3?'),
    (f'{TINY} -gin.TRAIN_STEPS=3', 'Did you mean --gin.TRAIN_STEPS=3?'),
    (f'{TINY} --accept_change', 'Did you mean --accept_changes?'),
    (f'{TINY} gin/optim/muon.gin', "'gin/optim/muon.gin' is one argument too many"),
    ('eval --gin_file=a/config.gin --tsak=squad', 'Did you mean --task=squad?'),
    ('infer --gin_file=a/config.gin --input=a --out=b.jsonl', 'no flag --out'),
    ('infer --gin_file=a/config.gin --input=a --output=b.jsonl --batch-size=3', 'Did you mean --batch_size=3?'),
    ('serve --model=a --place=3', 'no flag --place'),
    ('serve runs/tiny', '--model is missing'),
    ('export --gin_file=a/config.gin gin.TRAIN_STEPS=3', 'Did you mean --gin.TRAIN_STEPS=3?'),
    ('compare a b c', "'c' is one argument too many"),
    ('checkpoint convert a b --dtyp=float32', 'Did you mean --dtype=float32?'),
    ('doctor now', "'now' is one argument too many"),
    # Values of flags.
    (f'{TINY} --devices=0', '--devices: 0 must be a whole number of at least 1'),
    ('infer --gin_file=a/config.gin --input=a --output=z.jsonl --batch_size=' + '9' * 30, 'and at most 2147483647'),
    (f'{TINY} --explain --gin.MODEL_DIR=/dev/null', 'MODEL_DIR is /dev/null, a file; name a folder'),
    (f'{TINY} --devices=many', '--devices: many must be a whole number of at least 1'),
    ('eval --gin_file=a/config.gin --task=x --examples=0', '--examples: 0 must be'),
    ('eval --gin_file=a/config.gin --task=x --shots=-1', '--shots: -1 must be a whole number of at least 0'),
    ('eval --gin_file=a/config.gin --output=scores', "--output: 'scores' must end in .json", 'scores.json'),
    ('infer --gin_file=a/config.gin --input=a --output=z.txt', "'z.txt' must end in .jsonl, e.g. z.jsonl"),
    ('infer --gin_file=a/config.gin --input=a --output=', "'' must end in .jsonl"),
    ('infer --gin_file=a/config.gin --input=a --output=z.jsonl --batch_size=-2', '--batch_size: -2 must be'),
    ('serve --model=a --port=http', '--port: http must be a whole number of at least 0 and at most 65535'),
    ('serve --model=a --port=70000', '--port: 70000 must be a whole number of at least 0 and at most 65535'),
    ('serve --model=a --seconds=inf', '--seconds: inf must be a finite number above 0'),
    ('serve --model=a --seconds=nan', '--seconds: nan must be a finite number above 0'),
    ('serve --model=a --seconds=-1', '--seconds: -1 must be a finite number above 0'),
    ('serve --model=a --seconds=5s', '--seconds: 5s must be a finite number above 0'),
    ('serve --model=a --max_tokens=0', '--max_tokens: 0 must be a whole number of at least 1'),
    ('serve --model=a --max_tokens=-1', '--max_tokens: -1 must be'),
    ('serve --model=a --max_waiting=0', '--max_waiting: 0 must be'),
    ('serve --model=a --slots=-8', '--slots: -8 must be'),
    ('serve --model=a --body_bytes=-1', '--body_bytes: -1 must be'),
    ('serve --model=a --body_bytes=4MB', '--body_bytes: 4MB must be'),
    ('serve --model=', 'a MODEL_DIR is missing'),
    ('serve --model=a=', 'a MODEL_DIR is missing: --model=a=runs/tiny'),
    ('export --gin_file=a/config.gin --format=hff out', "invalid choice: 'hff'", 'Did you mean hf?'),
    ('export --gin_file=a/config.gin --dtype=fp16 out', "invalid choice: 'fp16'", 'float16'),
    ('import --head_dim=0 a b', '--head_dim: 0 must be'),
    ('import --format=hugging a b', "invalid choice: 'hugging'"),
    ('checkpoint lss a', "invalid choice: 'lss'", 'Did you mean ls?'),
    ('checkpoint convert a b --dtype=float', 'Did you mean float32?'),
    ('vocabulary --size=0 --output=a.model', '--size: 0 must be'),
    ('vocabulary --size=32k --output=a.model', '--size: 32k must be a whole number'),
    ('vocabulary --output=a.txt', "'a.txt' must end in .model, e.g. a.model"),
    ('inspect python_stdlib --examples=-3', '--examples: -3 must be'),
    ('compile-for --topology=v9:2x2 --gin_file=gin/pretrain_tiny.gin', '--topology=v9:2x2', 'e.g. v5e:2x4', 'v5e'),
    ('compile-for --topology=v5e --gin_file=gin/pretrain_tiny.gin', '--topology=v5e: expected', 'e.g. v5e:2x4'),
]

GIN_FILES = [
    ('train --gin_file=gin/pretrain_tinny.gin', "'gin/pretrain_tinny.gin' is not the name", 'gin/pretrain_tiny.gin?'),
    ('train --gin_file=', "--gin_file: '' is not the name of a gin file", 'Entry files: gin/finetune_lora.gin'),
    ('train --gin_file={t}', 'is a folder, not a gin file'),
    ('train --gin_file=gin/models/base.gin', 'a part, not a whole run', 'gin/pretrain_base.gin'),
    ('train --gin_file={t}/empty.gin', 'a part, not a whole run', 'Entry files'),
    ('train --gin_file={t}/latin.gin', 'latin.gin, line 2: byte 0xe9 is not UTF-8', 'Save the file as UTF-8'),
    ('train --gin_file={t}/utf16.gin', 'utf16.gin', 'this is UTF-16', 'Save it as UTF-8'),
    ('train --gin_file={t}/nul.gin', 'nul.gin, line 2: contains a NUL byte'),
    ('train --gin_file={t}/text.model', 'contains a NUL byte, so it is not a gin file'),
    ('train --gin_file={t}/itself.gin', 'itself.gin, line 1', 'includes itself', 'Remove one of these includes'),
    ('train --gin_file={t}/one.gin', 'two.gin, line 1', 'includes itself', 'one.gin → {t}/two.gin → {t}/one.gin'),
    ('train --gin_file={t}/deep.gin', 'deep.gin, line 2', 'too long or too deeply nested'),
    ('train --gin_file={t}/long.gin', 'long.gin, line 2', 'too long or too deeply nested'),
    ('train --gin_file={t}/syntax.gin', 'SyntaxError', 'broken_syntax.py, line 1'),
    ('train --gin_file={t}/raises.gin', 'raises.gin, line 2', 'RuntimeError: no such luck'),
    ('train --gin_file={t}/absent.gin', 'absent.gin, line 2', 'no_such_module', 'looked for in the working directory'),
    ('train --gin_file={t}/unquoted.gin', 'unquoted.gin, line 2', "MODEL_DIR = 'runs/mine'"),
    ('train --gin_file={t}/include.gin', 'include.gin, line 1', 'Did you mean gin/pretrain_tiny.gin?'),
    ('train --gin_file={t}/macro.gin', 'macro.gin, line 2: nothing uses the macro TRAIN_STEP', 'TRAIN_STEPS?'),
    ('train --gin_file={t}/parameter.gin', 'parameter.gin, line 2', 'Did you mean total_steps?'),
    ('train --gin_file={t}/part.gin', 'part.gin, line 2', 'Did you mean palm.Architecture?'),
    ('train --gin_file={t}/undefined.gin', 'undefined.gin, line 2: %STEPS is not defined', '--gin.STEPS=...'),
    (
        'train --gin_file={t}/circle.gin',
        'circle.gin, line 2: TRAIN_STEPS is defined by itself: %TRAIN_STEPS → %TRAIN_STEPS',
    ),
    ('train --gin_file={t}/circles.gin', 'is defined by itself', '%SEED → %TRAIN_STEPS', 'Give it a value'),
    ('train --gin_file={t}/half.gin', "half.gin, line 2: MODEL_DIR has half of a surrogate pair, '\\ud83d': remove it"),
    ('train --gin_file={t}/escaped.gin', 'escaped.gin, line 2: MODEL_DIR has a NUL, character 2: remove it'),
    ('train --gin_file={t}/digits.gin', 'digits.gin, line 2: TRAIN_STEPS has a whole number above 2^63 - 1'),
    (f'infer {RUN} --gin_file={{t}}/latin.gin --input={{t}}/rows.csv --output={{t}}/o.jsonl', 'byte 0xe9 is not UTF-8'),
    ('train --gin_file={t}/json.json', 'json.json, line 1: gin cannot read this line'),
    (f'{TINY} --gin_file=gin/decoding/beem.gin', 'Did you mean gin/decoding/beam.gin?'),
    (f'{FINETUNE} --gin_file=gin/decoding/nucleus.gin', 'SAMPLER', 'read by gin/heads/generation.gin', 'Leave'),
    ('bindings --gin_file=gin/nothing.gin', "'gin/nothing.gin' is not the name of a gin file"),
    ('bindings LORA_RNAK', "matches 'LORA_RNAK'", 'Did you mean LORA_RANK?'),
]

FLAGS = [
    # Names.
    (f'{TINY} --gin.TRIAN_STEPS=5', 'TRIAN_STEPS', 'Did you mean TRAIN_STEPS?'),
    (f'{TINY} --gin.=5', "--gin.=5: '' is not a name", '--gin.TRAIN_STEPS=100'),
    (f'{TINY} "--gin.TRAIN STEPS=5"', "'TRAIN STEPS' is not a name"),
    (f'{TINY} --gin.loop..train=5', "'loop..train' is not a name"),
    (f'{TINY} --gin.LORA_RANK=3', 'it is in gin/peft/lora.gin', '--gin_file=gin/peft/lora.gin'),
    (f'{TINY} --gin.WEIGHT_DECAY=0.1', 'no file of this run has the macro', '--gin_file=gin/optim/adamw.gin'),
    (f'{TINY} --gin.palm.Architecture.num_kv_heds=1', 'Did you mean num_kv_heads?'),
    (f'{TINY} --gin.plam.Architecture.num_kv_heads=1', 'Did you mean palm.Architecture?'),
    (f'{TINY} --gin.optimizers.muon.momentum=0.5', 'has no effect', 'optimizers.muon'),
    (f'{TINY} --gin.OPTIMIZER=@optimizers.adam()', 'Did you mean optimizers.adamw?'),
    (f'{TINY} --gin.METHODS=[@lora.LoRA()]', 'no file of this run imports lora.LoRA', '--gin_file=gin/peft/lora.gin'),
    (
        f'{TINY} --gin.pretrained.architecture.attention=xla',
        'no file of this run imports pretrained.architecture',
        '--gin_file=gin/models/pretrained.gin',
    ),
    (f'{TINY} --gin.TRAIN_STEPS=%STEPS', '%STEPS is not defined', '--gin.STEPS=...'),
    # Values that gin cannot read.
    (f'{TINY} --gin.TRAIN_STEPS', '--gin.TRAIN_STEPS needs a value: --gin.TRAIN_STEPS=...'),
    (f'{TINY} --gin.TRAIN_STEPS=', 'the value is missing', '--gin.TRAIN_STEPS=...'),
    (f'{TINY} "--gin.TASK_FEATURE_LENGTHS={{targets: 8}}"', 'not a gin value', 'Quote it for the shell'),
    (f"{TINY} '--gin.TEXT_COLUMN={{{{a}}}} b'", 'not a gin value', '''a text: --gin.TEXT_COLUMN="'{{a}} b'"'''),
    (f'{TINY} --gin.TASK_FEATURE_LENGTHS=[', 'not a gin value', 'brackets do not match'),
    (f'{TINY} --gin.TRAIN_STEPS={"9" * 5000}', '--gin.TRAIN_STEPS=9999', 'must be a whole number'),
    (f'{TINY} --gin.TRAIN_STEPS={"[" * 3000}', 'not a gin value', 'brackets do not match'),
    # Types.
    (f'{TINY} --gin.TRAIN_STEPS=abc', 'TRAIN_STEPS', "must be a whole number, but it is 'abc', a text"),
    (f'{TINY} --gin.TRAIN_STEPS=1e3', 'must be a whole number, but it is 1000.0, a fraction'),
    (f'{TINY} --gin.MODEL_DIR=7', 'MODEL_DIR', 'must be a text'),
    (f'{TINY} --gin.LEARNING_RATE=True', 'must be a number'),
    (f'{TINY} --gin.PROMPTS=hello', 'must be a list of texts in quotes', "Write PROMPTS = ['hello']"),
    (f'{TINY} --gin.PROMPTS=[1]', 'must be a list of texts in quotes'),
    (f'{TINY} --gin.STOP_SEQUENCES=x', "Write STOP_SEQUENCES = ['x']"),
    (f'{TINY} --gin.TRAINABLE=stack', "Write TRAINABLE = ['stack']"),
    (f'{TINY} --gin.TASK_FEATURE_LENGTHS=3', 'must be a dict from texts in quotes to whole numbers'),
    (f'{TINY} --gin.COMPUTE_DTYPE=float8', "'float32', 'bfloat16'", 'Did you mean float32?'),
    (f'{TINY} --gin.REMAT=all', "must be one of 'none', 'minimal', 'full'"),
    (f'{TINY} --gin.palm.Architecture.norm=rmsnrm', 'Did you mean rmsnorm?'),
    (f'{TINY} "--gin.WRITERS=[\'x\']"', 'WRITERS', 'must be a list of Writer'),
    (f'{FINETUNE} --gin.SEEDS=3', 'SEEDS', 'must be a list of whole numbers'),
    (f'{FINETUNE} --gin.CLASS_WEIGHTS=balnced', 'CLASS_WEIGHTS', "'balanced'"),
    (f'{FINETUNE} --gin.SAMPLING=x', "must be one of 'over', 'under'"),
    (f'{FINETUNE} --gin.POOLING=max', 'POOLING', "'mean'"),
    (f'{PAIRS} --gin.BLEU_TOKENIZER=chinese', "must be one of '13a', 'zh', 'char'"),
    # Bounds.
    (f'{TINY} --gin.MODEL_DIR=""', '--gin.MODEL_DIR=: the value is missing'),
    (f'{TINY} "--gin.MODEL_DIR=\'\'"', "MODEL_DIR is ''; it must be not empty"),
    (f'{TINY} "--gin.MODEL_DIR=\' \'"', "MODEL_DIR is ' '; it must be not empty"),
    (f'{TINY} --gin.TRAIN_STEPS=0', 'TRAIN_STEPS is 0; it must be at least 1'),
    (f'{TINY} --gin.TRAIN_STEPS=-5', 'TRAIN_STEPS is -5; it must be at least 1'),
    (f'{TINY} --gin.BATCH_SIZE=0', '--gin.BATCH_SIZE=0: BATCH_SIZE is 0; it must be at least 1'),
    (f'{TINY} --gin.BATCH_SIZE=[]', 'BATCH_SIZE is []', 'ascending pairs'),
    (f'{TINY} --gin.MICROBATCHES=0', 'MICROBATCHES is 0; it must be at least 1'),
    (f'{TINY} --gin.LEARNING_RATE=-1', 'LEARNING_RATE is -1; it must be at least 0'),
    (f'{TINY} --gin.LEARNING_RATE=1e999', 'LEARNING_RATE is inf; it must be a finite number'),
    (f'{TINY} --gin.DROPOUT_RATE=1', 'DROPOUT_RATE is 1; it must be at least 0 and below 1'),
    (f'{TINY} --gin.NUM_HEADS=0', 'NUM_HEADS is 0; it must be at least 1'),
    (f'{TINY} --gin.HEAD_DIM=15', '--gin.HEAD_DIM=15: Architecture.head_dim is 15', 'it must be even'),
    (f'{TINY} --gin.palm.Architecture.num_kv_heads=3', '--gin.palm.Architecture.num_kv_heads=3', 'Possible: 1, 2, 4'),
    (f'{TINY} --gin.VOCABULARY_SIZE=0', 'VOCABULARY_SIZE is 0; it must be at least 1'),
    (f'{TINY} --gin.EXTRA_IDS=-1', '--gin.EXTRA_IDS=-1: EXTRA_IDS is -1; it must be at least 0'),
    (f'{TINY} --gin.SEED=-1', 'SEED is -1; it must be at least 0 and below 2147483648'),
    (f'{TINY} --gin.SEED=99999999999', 'SEED is 99999999999; it must be at least 0 and below 2147483648'),
    (f'{TINY} --gin.LOG_PERIOD=0', 'LOG_PERIOD is 0; it must be at least 1'),
    (f'{TINY} --gin.EVAL_PERIOD=0', 'EVAL_PERIOD is 0; it must be at least 1'),
    (f'{TINY} --gin.EVAL_BATCHES=0', 'EVAL_BATCHES is 0; it must be at least 1'),
    (f'{TINY} --gin.CHECKPOINT_PERIOD=0', 'CHECKPOINT_PERIOD is 0; it must be at least 1'),
    (f'{TINY} --gin.KEEP_CHECKPOINTS=0', 'KEEP_CHECKPOINTS is 0; it must be at least 1'),
    (f'{TINY} --gin.MIXTURE_TEMPERATURE=0', 'MIXTURE_TEMPERATURE is 0; it must be above 0'),
    (f'{TINY} --gin.TEMPERATURE=-1', 'TEMPERATURE is -1; it must be at least 0'),
    (f'{TINY} --gin.TOP_P=0', 'TOP_P is 0; it must be above 0 and at most 1'),
    (f'{TINY} --gin.TOP_P=1.5', 'TOP_P is 1.5; it must be above 0 and at most 1'),
    (f'{TINY} --gin.TOP_K=-1', 'TOP_K is -1; it must be at least 0'),
    (f'{TINY} --gin.REPETITION_PENALTY=0', 'REPETITION_PENALTY is 0; it must be above 0'),
    (f'{TINY} --gin.NUM_DECODES=0', 'NUM_DECODES is 0; it must be at least 1'),
    (f'{TINY} --gin.MAX_NEW_TOKENS=0', 'MAX_NEW_TOKENS is 0; it must be at least 1'),
    (f'{TINY} --gin_file=gin/decoding/beam.gin --gin.NUM_BEAMS=0', 'NUM_BEAMS is 0; it must be at least 1'),
    (f'{TINY} --gin_file=gin/runs/skip_spikes.gin --gin.SPIKE_WINDOW=0', 'SPIKE_WINDOW is 0; it must be at least 2'),
    (f'{TINY} --gin.MESH_MODEL=0', '--gin.MESH_MODEL=0: MESH_MODEL is 0; it must be at least 1'),
    (f'{TINY} --gin.MESH_MODEL=2', 'does not fit 1 device', '--gin.MESH_MODEL'),
    (f'{TINY} "--gin.TASK_FEATURE_LENGTHS={{\'targets\': 0}}"', 'each item must be at least 1'),
    (f'{TINY} "--gin.TASK_FEATURE_LENGTHS={{\'targets\': 1}}"', "it needs 'targets' of at least 2 tokens"),
    (f'{TINY} "--gin.TASK_FEATURE_LENGTHS={{\'inputs\': 8}}"', "it needs 'targets'"),
    (f'{FINETUNE} --gin.LORA_RANK=0', 'LORA_RANK is 0; it must be at least 1'),
    (f'{FINETUNE} --gin.LORA_ALPHA=-1', 'LORA_ALPHA is -1; it must be above 0'),
    (f'{FINETUNE} --gin.LABEL_SMOOTHING=1', 'LABEL_SMOOTHING is 1; it must be at least 0 and below 1'),
    (f'{FINETUNE} --gin.FOCAL_GAMMA=-1', 'FOCAL_GAMMA is -1; it must be at least 0'),
    (f'{FINETUNE} --gin.SEEDS=[]', 'SEEDS is []; it must be not empty'),
    (f'{FINETUNE} --gin.SEEDS=[-1]', 'SEEDS is [-1]', 'each item at least 0'),
    (f'{FINETUNE} --gin.PATIENCE=3', 'PATIENCE needs a metric', '--gin.BEST_METRIC=loss'),
    (f'{FINETUNE} --gin.TRAINABLE_LAYERS=0', '--gin.TRAINABLE_LAYERS=0: TRAINABLE_LAYERS is 0; it must be at least 1'),
    (f'{FINETUNE} --gin.TRAINABLE_LAYERS=99', '--gin.TRAINABLE_LAYERS=99', 'at most 4'),
    (f'{FINETUNE} --gin.LAYERWISE_LR_DECAY=0', 'LAYERWISE_LR_DECAY is 0; it must be above 0 and at most 1'),
    (f'{FINETUNE} --gin.GROUP_BY_LENGTH=-32', 'GROUP_BY_LENGTH is -32'),
    (f'{FINETUNE} --gin_file=gin/peft/prompt.gin --gin.PROMPT_LENGTH=0', 'PROMPT_LENGTH is 0; it must be at least 1'),
    (f'{PAIRS} --gin.EVAL_EXAMPLES=0', 'EVAL_EXAMPLES is 0; it must be at least 1'),
    (f'{PAIRS} --gin.METRICS=[]', 'METRICS is []; it must be not empty'),
    (f'{PAIRS} "--gin.METRICS=[\'blue\']"', "'blue' is unknown", 'Did you mean bleu?'),
    # Flags that have no effect without another one.
    (f'fisher {RUN} --output={{t}}/f.npz --decay=0.5', '--decay requires --previous', '.npz file of the earlier tasks'),
    ('train --gin_file=gin/pretrain_tiny.gin --devices=2', '--devices requires --explain'),
    (f'eval {RUN} --split=test', '--split requires --task'),
    (f'drift {RUN} --input={{t}}/text.txt --days=3', '--days requires --requests'),
    (f'drift {RUN} --input={{t}}/text.txt --model=a', '--model requires --requests'),
    ('retune --registry={t}/r --input={t}/rows.csv --model=a', '--model requires --requests'),
    (f'memorization {RUN} --others=3', '--others requires --canaries'),
    (f'explain-prediction {RUN} --text=a --examples=3', '--examples requires --input'),
    (f'explain-prediction {RUN} --input={{t}}/rows.csv --second_text=a', '--second_text requires --text'),
    (f'select {RUN} --input={{t}}/rows.csv --output={{t}}/s.csv --samples=3', '--samples requires --strategy=bald'),
    (f'export {RUN} {{t}}/out --base={{t}}', '--base requires --format=peft'),
    ('import {t}/a {t}/b --head_dim=4', '--head_dim requires --format=palm-rlhf-pytorch'),
    ('serve --model=a --keep_days=3', '--keep_days requires --keep'),
    ('serve --model=a --redact=none', '--redact requires --keep'),
    ('serve --model=a --audit=a.jsonl', '--audit requires --rules'),
    ('serve --model=a --ab_share=0.1', '--ab_share requires --ab_test'),
    ('serve --model=a --keep=a.txt', "--keep: 'a.txt' must end in .db, e.g. a.db, or be a URL: postgresql://host/name"),
    ('serve --model=a --keep=mysql://ann:secret@host/a', 'mysql://ann:***@host/a: mysql:// is not supported'),
    # Macros of the runs in a study.
    ('ablate {t}/ablation.gin --gin.TRAIN_STEPS=5', "Add '--gin.TRAIN_STEPS=5' to the list FLAGS of {t}/ablation.gin"),
    ('search {t}/search.gin --gin.LORA_RANK=5', "Add '--gin.LORA_RANK=5' to the list FLAGS of {t}/search.gin"),
    ('continue {t}/continual.gin --gin.SEED=5', "Add '--gin.SEED=5' to the list FLAGS of {t}/continual.gin"),
    ('ablate {t}/ablation.gin --gin.SEED=5', 'which sets SEED of its runs itself: by STUDY_SEEDS'),
    ('ablate {t}/with_steps.gin', 'with_steps.gin, line 5', "Add '--gin.TRAIN_STEPS=5' to the list FLAGS of"),
    # Regular expressions.
    (f'{TINY} "--gin.TRAINABLE=[\'[\']"', "TRAINABLE is ['[']; each item must be a regular expression"),
    (f'{TINY} "--gin.TRAINABLE=[\'stack/atn/.*\']"', "'stack/atn/.*' matches no parameter", 'stack/attn'),
    (f'{TINY} --gin.optimizers.adafactor.weight_decay_pattern=*', "is '*'; it must be a regular expression"),
    (f'{FINETUNE} "--gin.LORA_TARGETS=\'(\'"', "LORA_TARGETS is '('; it must be a regular expression"),
    (f'{FINETUNE} --gin_file=gin/peft/adapter.gin --gin.ADAPTER_TARGETS=+', "ADAPTER_TARGETS is '+'; it must be a reg"),
    (f'{TAGS} "--gin.WORD_PATTERN=\'[\'"', "WORD_PATTERN is '['; it must be a regular expression with 1 group"),
    (f'{TAGS} --gin.WORD_PATTERN=.', "WORD_PATTERN is '.'; it must be a regular expression with 1 group"),
    (f'{TAGS} "--gin.WORD_PATTERN=\'(a)\'"', 'rows.conll, line 1', 'WORD_PATTERN', 'does not match'),
]

FILES = [
    # What a run reads.
    (f'{TINY} --gin.TRAIN_FILES={{t}}/nothing.txt', 'nothing.txt', 'no such file'),
    (f'{TINY} --gin.TRAIN_FILES={{t}}/folder', 'folder', 'no .txt'),
    (f'{TINY} --gin.VOCABULARY={{t}}/text.txt', 'text.txt is not a SentencePiece model'),
    (f'{TINY} --gin.VOCABULARY={{t}}/nothing.model', 'nothing.model'),
    (f'{TINY} --gin.VOCABULARY=byte', 'No vocabulary at byte', 'Did you mean bytes?'),
    (f'{FINETUNE} --gin.TRAIN_FILES={{t}}/nothing.csv', 'nothing.csv', 'no such file'),
    (f'{FINETUNE} --gin.LABEL_COLUMN=category', "no column 'category'", '--gin.LABEL_COLUMN=...'),
    (f'{FINETUNE} --gin.CLASS_WEIGHTS={{c!r}}', "no class is called 'c'", 'Known: a, b'),
    (
        f'{FINETUNE} --gin.INITIAL_CHECKPOINT_PATH=nowhere',
        "'nowhere' is not a checkpoint",
        'palm-jax train --gin_file=',
    ),
    (f'{FINETUNE} --gin.INITIAL_CHECKPOINT_PATH={{t}}/text.txt', 'is not a checkpoint'),
    (f'{FINETUNE} --gin.INITIAL_CHECKPOINT_PATH=', 'the value is missing'),
    (f'{FINETUNE} --gin_file=gin/heads/regression.gin', "the label 'a' is not a number"),
    (f'{FINETUNE} --gin_file=gin/heads/tagging.gin', 'rows.csv, line 1', 'a line needs a word and its tag'),
    (f'{FINETUNE} --gin_file=gin/heads/text_to_text.gin', "no column 'input'", '--gin.INPUT_TEMPLATE=...'),
    (f'{TAGS} --gin.TAG_COLUMN=5', 'rows.conll, line 1', 'TAG_COLUMN = 5'),
    (f'infer {RUN} --input={{t}}/rosw.csv --output={{t}}/out.jsonl', 'no such file', 'Did you mean {t}/rows.csv?'),
    (
        f'{FINETUNE} --gin_file=gin/methods/replay.gin --gin.REPLAY_FILES={{t}}/row.csv',
        'REPLAY_FILES = ',
        'no such file',
        'Did you mean {t}/rows.csv?',
    ),
    ('vocabulary --train_files={t}/nothing.txt --output={t}/a.model', 'nothing.txt', 'no such file'),
    ('vocabulary --train_files={t}/text.txt --size=300000 --output={t}/a.model', 'at most 289', '--size=289'),
    ('vocabulary --train_files={t}/text.txt --size=10 --output={t}/a.model', 'at least 2', '--size='),
    # Runs.
    ('eval --gin_file=nowhere/config.gin', 'nowhere', 'does not exist'),
    ('eval --gin_file={t}/folder/config.gin', 'folder', 'holds no config.gin'),
    ('eval --gin_file={t}/run', '{t}/run is a folder', '--gin_file={t}/run/config.gin'),
    ('eval --gin_file={t}/rnu/config.gin', 'Did you mean {t}/run/config.gin?'),
    ('eval --gin_file=gin/finetune_lora.gin', 'name the config.gin that a run left in its MODEL_DIR'),
    (f'eval {RUN} --shots=2', '--shots requires --task'),
    (f'eval {RUN} --examples=2', '--examples requires --task'),
    (f'eval {RUN} --output={{t}}/no/scores.json', '--output', '{t}/no does not exist'),
    (f'eval {RUN}', '{t}/run', 'is not a checkpoint'),
    (f'infer {RUN} --input={{t}}/rows.csv --output={{t}}/no/out.jsonl', '{t}/no'),
    (f'infer {RUN} --input={{t}}/nothing.csv --output={{t}}/out.jsonl', 'nothing.csv', 'no such file'),
    ('infer --gin_file=nowhere/config.gin --input={t}/rows.csv --output={t}/out.jsonl', 'nowhere', 'does not exist'),
    ('serve --model={t}/nothing', "'{t}/nothing' is not a checkpoint"),
    ('serve --model=x={t}/registyr', 'Nor is it a registry of palm-jax retune', 'Did you mean {t}/registry?'),
    ('serve --model=x={t}/registry', "{t}/registry/registry.jsonl names a champion that is gone: MODEL_DIR = 'gone'"),
    ('serve --model={t}/run', '{t}/run', 'is not a checkpoint'),
    (f'export {RUN} --format=peft {{t}}/out', '{t}/run', 'is not a checkpoint'),
    ('export --gin_file=gin/pretrain_tiny.gin {t}/out', 'name the config.gin'),
    (f'contamination {RUN} --corpus={{t}}/nothing/config.gin', '--corpus={t}/nothing/config.gin does not exist'),
    (f'contamination {RUN} --corpus={{t}}/run', '--corpus={t}/run is a folder', 'Write --corpus={t}/run/config.gin'),
    (f'fisher {RUN} --output={{t}}/f.npz --previous={{t}}/text.txt', "--previous = '{t}/text.txt' cannot be read"),
    ('import {t}/nothing {t}/imported', 'nothing'),
    ('import --format=palm-rlhf-pytorch {t}/text.txt {t}/imported', 'needs --tokenizer='),
    ('compare {t}/run {t}/folder', 'predictions.jsonl does not exist', 'finished fine-tuning run'),
    ('checkpoint ls {t}/nothing', 'holds no checkpoint', 'not a MODEL_DIR'),
    ('checkpoint show {t}/folder', 'is not a checkpoint'),
    ('checkpoint diff {b} {t}/folder', 'is not a checkpoint'),
    ('checkpoint average {t}/new', 'name at least one checkpoint'),
]
METHODS = [  # what a run refuses before its first step, its explanation refuses, too
    (f'{PAIRS} --gin_file=gin/methods/group_dro.gin', 'GroupDRO needs a class per text'),
    (
        f'{PAIRS} --gin_file=gin/methods/group_dro.gin --gin.GROUP_DRO_WEIGHT=0',
        'group_dro.gin, line 10',
        'GroupIds is for a model that predicts labels, and this one generates text: leave it out',
    ),
    (f'{FINETUNE} --gin_file=gin/methods/group_dro.gin', 'GROUP_COLUMN is not set', '--gin.GROUP_COLUMN='),
    (
        f'{FINETUNE} --gin_file=gin/methods/gkd.gin --gin.TEACHER_CHECKPOINT_PATH={{b}}',
        'GKD is for models that generate text',
    ),
    (
        f'{FINETUNE} --gin_file=gin/methods/unlikelihood.gin --gin.REPEAT_WINDOW=8',
        'Unlikelihood is for models that generate text',
    ),
    (f'{PAIRS} --gin_file=gin/methods/unlikelihood.gin', 'UNLIKELY_PHRASES', '--gin.REPEAT_WINDOW=64'),
    (
        f'{TINY} --gin.palm.Architecture.attention="\'intervals\'" --gin.TASK_FEATURE_LENGTHS="{{\'targets\': 100}}"',
        'requires a sequence length that is a multiple of 128',
        'here they are 100',
    ),
    (
        f'{FINETUNE} --gin.pretrained.architecture.attention="\'intervals\'" '
        '--gin.TASK_FEATURE_LENGTHS="{\'inputs\': 128}"',
        'requires a sequence length that is a multiple of 128',
        '--gin.GROUP_BY_LENGTH=None leaves all of them at 128 tokens',
    ),
    (
        f'{TINY} --gin_file=gin/methods/gkd.gin --gin.TEACHER_CHECKPOINT_PATH={{t}}/other',
        'has the vocabulary micro, but this run has bytes',
    ),
]
CASES = [*PROGRAMS, *GIN_FILES, *FLAGS, *FILES, *METHODS]

TINY_GIN = "from __gin__ import dynamic_registration\ninclude 'gin/pretrain_tiny.gin'\n"
STUDY = "include 'gin/studies/KIND.gin'\nSTUDY_DIR = '{t}/study'\nFLAGS = ['--gin_file=gin/pretrain_tiny.gin']\n"
GIN = {
    'empty': '',
    'latin': b"include 'gin/pretrain_tiny.gin'\n# \xe9t\xe9\n",
    'utf16': "include 'gin/pretrain_tiny.gin'\n".encode('utf-16'),
    'nul': b"include 'gin/pretrain_tiny.gin'\nMODEL_DIR = 'a\0b'\n",
    'itself': "include '{t}/itself.gin'\n",
    'one': "include '{t}/two.gin'\n",
    'two': "include '{t}/one.gin'\n",
    'deep': f"include 'gin/pretrain_tiny.gin'\nTRAIN_STEPS = {'[' * 3000}{']' * 3000}\n",
    'long': f"include 'gin/pretrain_tiny.gin'\nTRAIN_STEPS = {'9' * 5000}\n",
    'syntax': TINY_GIN.replace('include', 'import broken_syntax\ninclude'),
    'raises': TINY_GIN.replace('include', 'import broken_import\ninclude'),
    'absent': TINY_GIN.replace('include', 'import no_such_module\ninclude'),
    'unquoted': "include 'gin/pretrain_tiny.gin'\nMODEL_DIR = runs/mine\n",
    'include': "include 'gin/pretrain_tinny.gin'\n",
    'macro': "include 'gin/pretrain_tiny.gin'\nTRAIN_STEP = 5\n",
    'parameter': "include 'gin/pretrain_tiny.gin'\nloop.train.total_step = 5\n",
    'part': "include 'gin/pretrain_tiny.gin'\nplam.Architecture.d_model = 5\n",
    'circle': "include 'gin/pretrain_tiny.gin'\nTRAIN_STEPS = %TRAIN_STEPS\n",
    'circles': "include 'gin/pretrain_tiny.gin'\nTRAIN_STEPS = [1, %SEED]\nSEED = %TRAIN_STEPS\n",
    'half': "include 'gin/pretrain_tiny.gin'\nMODEL_DIR = 'runs/\\ud83d'\n",
    'escaped': "include 'gin/pretrain_tiny.gin'\nMODEL_DIR = 'a\\x00b'\n",
    'digits': f"include 'gin/pretrain_tiny.gin'\nTRAIN_STEPS = {10**400}\n",
    'ablation': STUDY.replace('KIND', 'ablation') + "ARMS = {'a': []}\n",
    'search': STUDY.replace('KIND', 'search') + "SPACE = {'SEED': [1, 2]}\n",
    'continual': STUDY.replace('KIND', 'continual') + "TASKS = {'a': [], 'b': []}\n",
    'with_steps': STUDY.replace('KIND', 'ablation') + "ARMS = {'a': []}\nTRAIN_STEPS = 5\n",
    'undefined': "include 'gin/pretrain_tiny.gin'\nTRAIN_STEPS = %STEPS\n",
}


@pytest.fixture(scope='module')
def places(tmp_path_factory, base_and_table):
    """{t}, a folder of inputs, and {b}, a base model."""
    folder = tmp_path_factory.mktemp('wrong')
    for name, content in GIN.items():
        content = content if isinstance(content, bytes) else content.replace('{t}', str(folder)).encode()
        (folder / f'{name}.gin').write_bytes(content)
    (folder / 'broken_syntax.py').write_text('x = = 1\n')
    (folder / 'broken_import.py').write_text('raise RuntimeError("no such luck")\n')
    (folder / 'json.json').write_text('{"a": 1}\n')
    (folder / 'text.model').write_bytes(b'\n\x0e\0\0\0<unk>')
    (folder / 'text.txt').write_text('a line of text\n' * 400)
    (folder / 'rows.csv').write_text('text,label\n' + ''.join(f'text {i},{"ab"[i % 2]}\n' for i in range(40)))
    (folder / 'rows.conll').write_text(''.join(f'Ann{i} B-PER\nis O\n\n' for i in range(40)))
    pairs = ({'input': f'question {i}', 'target': f'answer {i}'} for i in range(40))
    (folder / 'pairs.jsonl').write_text(''.join(f'{json.dumps(pair)}\n' for pair in pairs))
    for name in ('folder', 'run', 'registry'):
        (folder / name).mkdir()
    (folder / 'registry' / 'registry.jsonl').write_text('{"event": "adopted", "model_dir": "gone"}\n')
    write_teacher(folder / 'other')
    (folder / 'run' / 'config.gin').write_text("include 'gin/pretrain_tiny.gin'\n")
    return {'t': str(folder), 'b': base_and_table[1][1]}


def test_there_are_two_hundred():
    assert len({case[0] for case in CASES}) == len(CASES) >= 200


@pytest.fixture(autouse=True)
def at_the_root(places, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(places['t'])
    monkeypatch.setattr('sys.argv', ['palm-jax'])


def filled(texts, places):
    """Texts with the paths of `places`."""
    texts = [text.replace('{c!r}', '"{\'c\': 1.0}"') for text in texts]
    for name, path in places.items():
        texts = [text.replace(f'{{{name}}}', path) for text in texts]
    return texts


def outcome(arguments):
    """The message of a command, empty if it is accepted, and what it printed."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            assert programs.main(arguments) == 0
        except UserError as error:
            return str(error), shown.getvalue()
    return '', shown.getvalue()


@pytest.mark.parametrize('case', CASES, ids=lambda case: case[0][:80])
def test_a_wrong_input_is_one_message(case, places):
    command, *parts = filled(case, places)
    message, shown = outcome(shlex.split(command))
    assert message, 'accepted'
    for part in parts:
        assert part in message, f'{part!r} is not in:\n{message}'
    assert 'Traceback' not in message + shown and len(message) < 6000
    assert all(len(line) < 3000 for line in message.splitlines())


ADVICE = re.compile(
    r'Did you mean (?P<name>\S+?)\?|Add e\.g\. (?P<add>\S+)|Write (?P<macro>[A-Z_]+) = (?P<value>.+)\.$', re.MULTILINE
)


def follow(advice, arguments):
    """Arguments changed as a message advises: with one more, or another in the place of the most similar one."""
    if advice['add']:
        return [*arguments, advice['add']]
    wanted = advice['name'] or f'--gin.{advice["macro"]}={advice["value"]}'
    similarity = lambda text: difflib.SequenceMatcher(None, text, wanted).ratio()  # noqa: E731
    if wanted.startswith('-'):
        replaced = max(arguments, key=similarity)
        return [wanted if argument is replaced else argument for argument in arguments]
    words = {word for argument in arguments for word in re.findall(r'[\w./]+', argument.removeprefix('--gin.'))}
    words -= {wanted}
    of = [[word for word in re.findall(r'[\w./]+', argument) if word != wanted] for argument in arguments]
    last = max(range(len(arguments)), key=lambda i: max(map(similarity, of[i])))
    wrong = max((word for word in words if word in arguments[last]), key=similarity)
    return [*arguments[:last], arguments[last].replace(wrong, wanted), *arguments[last + 1 :]]


@pytest.mark.parametrize('case', [case for case in CASES if '--explain' in case[0]], ids=lambda case: case[0][:80])
def test_advice_that_is_followed_gets_further(case, places):
    """Only of commands that explain a run: a corrected one is accepted, or its message is about the next mistake."""
    arguments = shlex.split(filled(case, places)[0])
    before, _ = outcome(arguments)
    if advice := ADVICE.search(before):
        after, _ = outcome(follow(advice, arguments))
        assert after.partition('\n')[0] != before.partition('\n')[0]
