"""The data of a round: what users corrected, checked, split, and mixed with rows that the champion was trained on."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Texts = tuple[str, ...]  # a text, both texts of a pair, the words of a sentence, or the turns of a dialogue


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Texts with their label, as JSON has it (a name, names, a number, tags, an answer), and where they come from."""

    texts: Texts
    label: Any
    source: str


@dataclasses.dataclass(frozen=True)
class Checked:
    """Rows that can be learned from, and how many others there were by what is wrong with them."""

    rows: list[Labelled]
    dropped: dict[str, int]


def check(
    rows: Iterable[Labelled],
    problem: Callable[[Labelled], str | None],
    excluded: Iterable[Texts],
    keeps_last: bool = False,
) -> Checked:
    """Return the rows that can be learned from.

    Dropped are rows that the model does not read, without text, or with a wrong label, texts with several labels, and
    texts of the frozen examples, on which champion and challenger are compared. Of equal rows one is kept.

    Args:
      rows: rows in order of time.
      problem: returns what is wrong with the label of a row, or None; see `forms.Form`.
      excluded: texts of the frozen examples.
      keeps_last: whether the last of several labels of a text counts.
    """
    dropped: collections.Counter[str] = collections.Counter()
    frozen = {_key(texts) for texts in excluded}
    by_text: dict[Texts, list[Labelled]] = {}
    for row in rows:
        found = _problem(row, frozen) or problem(row)
        if found:
            dropped[found] += 1
        else:
            by_text.setdefault(_key(row.texts), []).append(row)
    kept = []
    for same in by_text.values():
        labels = {json.dumps(row.label, sort_keys=True) for row in same}
        if len(labels) > 1 and not keeps_last:
            dropped['several labels for one text'] += len(same)
            continue
        kept.append(same[0] if len(labels) == 1 else same[-1])
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


def _key(texts: Texts) -> Texts:
    return tuple(' '.join(text.split()) for text in texts)


def _problem(row: Labelled, frozen: set[Texts]) -> str | None:
    if not row.texts:
        return 'asked in another form than the model reads'
    if not all(text.strip() for text in row.texts):
        return 'no text'
    return 'among the frozen examples' if _key(row.texts) in frozen else None
