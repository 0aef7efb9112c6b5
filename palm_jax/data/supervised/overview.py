"""The two parts of supervised data in numbers, before a run: rows, classes, tokens per character, what is cut."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence

from palm_jax.data.readers.splits import Split
from palm_jax.data.vocabulary.vocabularies import Vocabulary
from palm_jax.evenly_spaced import evenly_spaced
from palm_jax.wording import counted

_SHOWN_CLASSES = 20
_FEW = 10  # held-out examples, below which a metric is mostly chance
_SAMPLED_TEXTS, _SAMPLED_CHARACTERS = 200, 2000
SPLITS_CHARACTERS = 1.2  # tokens per character from which a vocabulary does not know the script of a text


def of_classes(train: Sequence[Collection[str]], validation: Sequence[Collection[str]]) -> list[str]:
    """Return lines with the number of examples of each class in both parts; no lines without classes.

    Args:
      train: classes of each training example.
      validation: classes of each held-out example.
    """
    counts = [collections.Counter(name for names in part for name in names) for part in (train, validation)]
    names = sorted(counts[0] | counts[1])
    if not names:
        return []
    rows = [f'{name} {counts[0][name]:,} + {counts[1][name]:,}' for name in names]
    if len(names) <= _SHOWN_CLASSES:
        return [f'classes    (training + held out) {", ".join(rows)}']
    lines = [f'classes    {len(names):,}: {_range(counts[0], names)} for training, {_range(counts[1], names)} held out']
    missing = [name for name in names if not counts[1][name]]
    if missing:
        more = f' and {len(missing) - _SHOWN_CLASSES:,} more' if len(missing) > _SHOWN_CLASSES else ''
        lines.append(f'           none held out of {", ".join(missing[:_SHOWN_CLASSES])}{more}')
    return lines


def _range(counts: Mapping[str, int], names: Sequence[str]) -> str:
    fewest, most = (choose(names, key=lambda name: counts[name]) for choose in (min, max))
    return f'{counts[fewest]:,} ({fewest}) to {counts[most]:,} ({most}) each'


def tokens_per_character(vocabulary: Vocabulary, texts: Sequence[str]) -> float:
    """Return the mean number of tokens per character, of at most 200 texts spread evenly over all."""
    sample = [texts[i][:_SAMPLED_CHARACTERS] for i in evenly_spaced(len(texts), _SAMPLED_TEXTS)]
    return sum(map(len, vocabulary.encode_all(sample))) / max(1, sum(map(len, sample)))


def warning_of_bytes(per_character: float) -> str:
    """Return what follows from a number of tokens per character, or an empty text if it is usual."""
    if per_character < SPLITS_CHARACTERS:
        return ''
    return f'the vocabulary splits this text into bytes: {per_character:.2f} tokens per character'


def warning_of_few(count: int, noun: str) -> str:
    """Return what follows from a number of held-out examples, or an empty text if there are enough for a metric."""
    if count >= _FEW:
        return ''
    are = 'is' if count == 1 else 'are'
    return (
        f'only {counted(count, noun)} {are} held out: results on so few say little about the model. Name a file with '
        'more of them: --gin.VALIDATION_FILES=...'
    )


def of_rows(count: Mapping[Split, int], noun: str, is_by_hash: bool) -> str:
    """Return a line with the number of examples in both parts."""
    how = ' of TRAIN_FILES by hash' if is_by_hash else ' in VALIDATION_FILES'
    return f'data       {counted(count["train"], noun)} for training, {count["validation"]:,} held out{how}'
