"""The data of a round: what users corrected, checked, split, and mixed with rows that the champion was trained on."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.errors import UserError
from palm_jax.json_files import read_json_lines
from palm_jax.labels.label_kind import LabelKind
from palm_jax.run_directory import write_whole

Texts = tuple[str, ...]  # a text, or both texts of a pair


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Texts with their label, a name, a list of names or a number, and where they come from."""

    texts: Texts
    label: Any
    source: str


@dataclasses.dataclass(frozen=True)
class Checked:
    """Rows that can be learned from, and how many others there were by what is wrong with them."""

    rows: list[Labelled]
    dropped: dict[str, int]


def check(rows: Iterable[Labelled], kind: LabelKind, names: Sequence[str], excluded: Iterable[Texts]) -> Checked:
    """Return the rows that can be learned from.

    Dropped are rows without text, with a label that the model does not have or that cannot be encoded, texts with
    several labels, and texts of the frozen examples, on which champion and challenger are compared. Of equal rows the
    first is kept.

    Args:
      rows: rows in order of time.
      kind: kind of label.
      names: labels of the model; empty for numbers.
      excluded: texts of the frozen examples.
    """
    dropped: collections.Counter[str] = collections.Counter()
    frozen = {_key(texts) for texts in excluded}
    by_text: dict[Texts, list[Labelled]] = {}
    for row in rows:
        problem = _problem(row, kind, names, frozen)
        if problem:
            dropped[problem] += 1
        else:
            by_text.setdefault(_key(row.texts), []).append(row)
    kept = []
    for same in by_text.values():
        labels = {json.dumps(row.label, sort_keys=True) for row in same}
        if len(labels) > 1:
            dropped['several labels for one text'] += len(same)
            continue
        kept.append(same[0])
        dropped['repeated'] += len(same) - 1
    return Checked(kept, {name: count for name, count in dropped.items() if count})


def split(rows: Sequence[Labelled], one_in: int) -> tuple[list[Labelled], list[Labelled]]:
    """Return rows to learn from and fresh ones to compare on, one in `one_in` by the hash of the text."""
    is_fresh = [int(hashlib.sha256('\n'.join(_key(row.texts)).encode()).hexdigest(), 16) % one_in == 0 for row in rows]
    learned = [row for row, fresh in zip(rows, is_fresh, strict=True) if not fresh]
    return learned, [row for row, fresh in zip(rows, is_fresh, strict=True) if fresh]


def replay(old: Sequence[Labelled], num_new: int, ratio: float, excluded: Iterable[Texts], seed: int) -> list[Labelled]:
    """Return rows of the champion's training table, `ratio` times as many as new ones, drawn without replacement.

    Without them a model that learns the new rows forgets the old ones (experience replay, Robins 1995).

    Args:
      old: training rows of the champion.
      num_new: number of new rows to learn from.
      ratio: replayed rows per new row.
      excluded: texts of new rows, whose old label no longer counts.
      seed: seed of the draw.
    """
    new = {_key(texts) for texts in excluded}
    rows = [row for row in old if _key(row.texts) not in new]
    count = min(len(rows), round(ratio * num_new))
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [rows[i] for i in sorted(chosen.tolist())]


def write_table(path: Path, rows: Sequence[Labelled], text_columns: Sequence[str], label_column: str) -> None:
    """Write rows as JSON lines with the columns of the champion's table."""
    lines = [
        json.dumps(dict(zip(text_columns, row.texts, strict=True)) | {label_column: row.label}, ensure_ascii=False)
        for row in rows
    ]
    write_whole(path, ''.join(f'{line}\n' for line in lines))


def read_table(path: Path, text_columns: Sequence[str], label_column: str) -> list[Labelled]:
    """Return the rows that `write_table` wrote."""
    rows = read_json_lines(path)
    for number, row in enumerate(rows, 1):
        if lacking := [name for name in (*text_columns, label_column) if name not in row]:
            raise UserError(f'{path}, line {number} is damaged: it has no {lacking[0]!r}.')
    return [Labelled(tuple(row[c] for c in text_columns), row[label_column], path.name) for row in rows]


def _key(texts: Texts) -> Texts:
    return tuple(' '.join(text.split()) for text in texts)


def _problem(row: Labelled, kind: LabelKind, names: Sequence[str], frozen: set[Texts]) -> str | None:
    if not all(text.strip() for text in row.texts):
        return 'no text'
    if _key(row.texts) in frozen:
        return 'among the frozen examples'
    label = (
        row.label if isinstance(row.label, str) else tuple(row.label) if isinstance(row.label, list) else str(row.label)
    )
    try:
        kind.check(label)
    except UserError:
        return 'a label that cannot be encoded'
    found = kind.class_names(label)
    if names and ((not found and kind.is_exclusive) or any(name not in names for name in found)):
        return 'a label that the model does not have'
    return None
