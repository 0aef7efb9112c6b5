"""Train and validation splits, also of texts that come without them: a hash holds some out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, TypeVar

from palm_jax.errors import UserError

Split: TypeAlias = Literal['train', 'validation']
SPLITS: tuple[Split, ...] = ('train', 'validation')
Item = TypeVar('Item')


def is_held_out(text: str, one_in: int) -> bool:
    """Return whether a text belongs to the validation split, one in `one_in` by hash: equal texts stay together."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % one_in == 0


def is_in_split(text: str, one_in: int, split: Split) -> bool:
    """Return whether a text belongs to a split; see `is_held_out`."""
    return is_held_out(text, one_in) == (split == 'validation')


def read_split(
    split: Split,
    train_files: str | None,
    validation_files: str | None,
    held_out: int,
    read: Callable[[str, str], Sequence[Item]],
    key: Callable[[Item], str],
    what: str,
) -> list[Item]:
    """Return the items of a split: those of its own files, or those that a hash puts there.

    Args:
      split: which one.
      train_files: TRAIN_FILES.
      validation_files: VALIDATION_FILES; None holds out one item in `held_out` of TRAIN_FILES.
      held_out: see `validation_files`.
      read: reads a path or glob; its second argument is the macro that named it, for messages.
      key: text of an item, whose hash decides the split.
      what: noun for the items in messages: `rows`.

    Raises:
      UserError: if TRAIN_FILES is missing, or has too few items to hold any out.
    """
    if train_files is None:
        raise UserError(f'TRAIN_FILES is not set: name the file with your {what}, --gin.TRAIN_FILES=...')
    if validation_files is not None:
        given = (train_files, 'TRAIN_FILES') if split == 'train' else (validation_files, 'VALIDATION_FILES')
        return list(read(*given))
    items = read(train_files, 'TRAIN_FILES')
    chosen = [item for item in items if is_in_split(key(item), held_out, split)]
    if not chosen:
        raise UserError(
            f'TRAIN_FILES = {train_files!r} has {len(items)} {what}, too few to hold some out for validation. '
            'Name a validation file: --gin.VALIDATION_FILES=...'
        )
    return chosen
