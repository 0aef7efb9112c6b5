"""Registered seqio tasks as tables, for every kind of fine-tuning: built once, read without TensorFlow."""

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
    """Return the path of a table of the examples of a task, for TRAIN_FILES and VALIDATION_FILES.

    Args:
      task: registered task or mixture with `inputs` and `targets`. The table of a mixture has as many rows as its parts
        together, shared by rate: a part with fewer examples is repeated, one with more is truncated.
      split: split of the task.
      kind: format: `jsonl` with {inputs, targets, task} per row; `conll` with the words of `inputs` and the tags of
        `targets`, of which there must be equally many.

    Raises:
      UserError: if there is no such task or split, or it lacks one of the features.
    """
    path = cache_dir() / 'tasks' / f'{cache_keys.cache_name(task, cache_keys.task_cache_key(task), split)}.{kind}'
    if not path.exists():
        _write(path, task, split, kind)
    return str(path)


def _write(path: Path, task: str, split: str, kind: Literal['jsonl', 'conll']) -> None:
    from palm_jax.data.registry import tasks

    shares = tasks.parts(task)
    rows = {}
    for part in shares:
        rows[part] = list(tqdm(tasks.rows(part, split), desc=f'reading {part} {split}', unit=' rows', leave=False))
        if not rows[part]:
            raise UserError(f'{part}: its split {split!r} has no examples.')
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
        raise UserError(
            f'{part}: {len(words)} words and {len(tags)} tags in {row["inputs"][:80]!r}; this is not a tagging task.'
        )
    return ''.join(f'{word}\t{tag}\n' for word, tag in zip(words, tags, strict=True)) + '\n'
