"""The tables of the studies of effects: rows of public data, drawn by the seed, and the answers of a teacher."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from palm_jax import api
from palm_jax.cli import infer, teach, train
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory
from tools.results_cases import write_table

CLASSES, LABELS, SEEDS = 25, 10, range(5)
SENTENCES, TEST_SENTENCES = 200, 400
PAIRS, INPUTS, TEACHER_PAIRS, TEST_PAIRS = 50, 200, 1000, 100
TEACHER = Path('runs/effects_teacher')
TEACHER_FLAGS = (
    '--gin_file=gin/finetune_lora.gin',
    '--gin_file=gin/heads/text_to_text.gin',
    '--gin.TRAIN_STEPS=200',
    '--gin.BATCH_SIZE=8',
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 80, 'targets': 64}",
    '--gin.MAX_NEW_TOKENS=64',
    '--gin.LEARNING_RATE=2e-3',
    '--gin.EVAL_PERIOD=200',
)


def write_labels(data: Path, folder: Path) -> None:
    """Write `test.csv`, and `labelled_N.csv` and `unlabelled_N.csv` for each seed N, with the columns text and label.

    Args:
      data: folder with banking77/train.csv and test.csv.
      folder: folder for the tables.

    Raises:
      UserError: a file of the data is not there.
    """
    train_rows, test_rows = (_read(data / 'banking77' / f'{part}.csv') for part in ('train', 'test'))
    names = random.Random(0).sample(sorted({row['category'] for row in train_rows}), CLASSES)
    write_table(folder / 'test.csv', [_labelled(row) for row in test_rows if row['category'] in names])
    for seed in SEEDS:
        rng, labelled, others = random.Random(seed), [], []
        for name in names:
            rows = [_labelled(row) for row in train_rows if row['category'] == name]
            rng.shuffle(rows)
            labelled += rows[:LABELS]
            others += rows[LABELS:]
        write_table(folder / f'labelled_{seed}.csv', labelled)
        write_table(folder / f'unlabelled_{seed}.csv', others)


def write_tags(data: Path, folder: Path) -> None:
    """Write `tagged_test.conll`, and `tagged_N.conll` for each seed N, of wnut17; see `write_labels`."""
    train_part, test_part = (
        [part for part in _text(data / 'wnut17' / f'{name}.conll').split('\n\n') if part.strip()]
        for name in ('train', 'dev')
    )
    drawn = {f'tagged_{seed}': random.Random(seed).sample(train_part, SENTENCES) for seed in SEEDS}
    drawn['tagged_test'] = random.Random(0).sample(test_part, min(TEST_SENTENCES, len(test_part)))
    folder.mkdir(parents=True, exist_ok=True)
    for name, sentences in drawn.items():
        (folder / f'{name}.conll').write_text('\n\n'.join(map(str.strip, sentences)) + '\n\n', encoding='utf-8')


def write_text(data: Path, folder: Path, base: str, flags: Sequence[str] = TEACHER_FLAGS) -> None:
    """Write tables of e2e_nlg, train a teacher on another one, and write what it answers; see `write_labels`.

    Each input has one of its sentences. `pairs_N.csv` is of the inputs that have one in training, `taught_N.csv` has
    those of the teacher for the others as well, and `teacher_N.npz` its likeliest tokens for `pairs_N.csv`. What is
    there is not made again.

    Args:
      data: folder with e2e_nlg/devset.csv.
      folder: folder for the tables.
      base: MODEL_DIR of the pretrained model.
      flags: flags of `palm-jax train` for the teacher.
    """
    first: dict[str, str] = {}
    for row in _read(data / 'e2e_nlg' / 'devset.csv'):
        first.setdefault(row['mr'], row['ref'])
    rows = [{'input': given, 'target': target} for given, target in first.items()]
    random.Random(0).shuffle(rows)
    test, others = rows[: len(rows) // 5][:TEST_PAIRS], rows[len(rows) // 5 :]
    of_teacher, of_student = others[: len(others) // 2][:TEACHER_PAIRS], others[len(others) // 2 :]
    write_table(folder / 'pairs_test.csv', test)
    write_table(folder / 'pairs_of_teacher.csv', of_teacher)
    if not RunDirectory(TEACHER).summary.is_file():
        files = f'--gin.TRAIN_FILES={folder}/pairs_of_teacher.csv', f'--gin.VALIDATION_FILES={folder}/pairs_test.csv'
        start = f'--gin.INITIAL_CHECKPOINT_PATH={base}', f'--gin.MODEL_DIR={TEACHER}'
        if code := train.main([*flags, *files, *start]):
            raise UserError(f'The teacher was not trained (code {code}). The same command continues it.')
    whole = TEACHER.with_name(f'{TEACHER.name}_whole')
    if not RunDirectory(whole).config.is_file():  # which is written last
        shutil.rmtree(whole, ignore_errors=True)
        api.load(TEACHER).save(whole)
    for seed in SEEDS:
        chosen = random.Random(seed).sample(of_student, min(PAIRS + INPUTS, len(of_student)))
        pairs, inputs = chosen[:PAIRS], chosen[PAIRS:]
        write_table(folder / f'pairs_{seed}.csv', pairs)
        write_table(folder / f'inputs_{seed}.csv', [{'input': row['input']} for row in inputs])
        answers, tokens = folder / f'answers_{seed}.jsonl', folder / f'teacher_{seed}.npz'
        of_run = f'--gin_file={RunDirectory(TEACHER).config}'
        if not answers.exists():
            infer.main([of_run, f'--input={folder}/inputs_{seed}.csv', f'--output={answers}'])
        found = [json.loads(line) for line in answers.read_text(encoding='utf-8').splitlines()]
        taught = [{'input': row['input'], 'target': row['predicted']} for row in found if row.get('predicted')]
        write_table(folder / f'taught_{seed}.csv', [*pairs, *taught])
        if not tokens.exists():
            teach.main([of_run, f'--gin.TRAIN_FILES={folder}/pairs_{seed}.csv', f'--output={tokens}'])


def _labelled(row: dict[str, str]) -> dict[str, str]:
    return {'text': row['text'], 'label': row['category']}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except FileNotFoundError:
        raise UserError(f'--data: {path} does not exist; docs/finetuning/tasks.md says where it is from.') from None


def _read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(_text(path).splitlines(keepends=True)))
