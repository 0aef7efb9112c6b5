"""Registered seqio tasks as tables, for every head: made once and kept, read without TensorFlow."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from palm_jax.cache_directory import cache_dir
from palm_jax.data.registry import cache_keys
from palm_jax.errors import UserError


@functools.cache
def table(task: str, split: str, kind: Literal['jsonl', 'conll'] = 'jsonl') -> str:
    """The path of a table of a task's examples, for TRAIN_FILES and VALIDATION_FILES.

    Args:
      task: a registered task or mixture with `inputs` and `targets`. A mixture becomes as many rows as its parts
        have, each part with its share of them: over and over where it has fewer, its first where it has more.
      split: of the task.
      kind: `jsonl`: {inputs, targets, task} a row; `conll`: words and tags of inputs and targets that have as many.

    Raises:
      UserError: no such task or split, or one that has not both features.
    """
    path = cache_dir() / 'tasks' / f'{cache_keys.cache_name(task, cache_keys.task_cache_key(task), split)}.{kind}'
    if not path.exists():
        from palm_jax.data.registry import tasks

        _write(path, tasks, task, split, kind)
    return str(path)


def _write(path: Path, tasks, task: str, split: str, kind: str) -> None:
    shares = tasks.parts(task)
    rows = {}
    for part in shares:
        rows[part] = list(tqdm(tasks.rows(part, split), desc=f'reading {part} {split}', unit=' rows', leave=False))
        if not rows[part]:
            raise UserError(f'{part}: its split {split!r} has not one example.')
    total = sum(map(len, rows.values()))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix('.unfinished')
    with unfinished.open('w', encoding='utf-8') as file:
        for part, share in shares.items():
            wanted = max(1, round(share * total)) if split == 'train' else len(rows[part])
            for row in itertools.islice(itertools.cycle(rows[part]), wanted):
                file.write(
                    _sentence(row, part)
                    if kind == 'conll'
                    else json.dumps(row | {'task': part}, ensure_ascii=False) + '\n'
                )
    unfinished.rename(path)


def _sentence(row: dict[str, str], part: str) -> str:
    words, tags = row['inputs'].split(' '), row['targets'].split(' ')
    if len(words) != len(tags):
        raise UserError(f'{part}: {len(words)} words and {len(tags)} tags in {row["inputs"][:80]!r}; no tagging task.')
    return ''.join(f'{word}\t{tag}\n' for word, tag in zip(words, tags, strict=True)) + '\n'
