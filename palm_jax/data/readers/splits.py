"""Train and validation splits, also of texts that come without them: a hash holds some out."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, TypeAlias

Split: TypeAlias = Literal['train', 'validation']
SPLITS: tuple[Split, ...] = ('train', 'validation')
_FEW = 5  # examples that may share a key in the smallest of tables


def is_held_out(text: str, one_in: int) -> bool:
    """Return whether a text belongs to the validation split, one in `one_in` by hash: equal texts stay together."""
    return _hash(text) % one_in == 0


def is_in_split(text: str, one_in: int, split: Split) -> bool:
    """Return whether a text belongs to a split; see `is_held_out`."""
    return is_held_out(text, one_in) == (split == 'validation')


def normalize(text: str) -> str:
    """Return a text with single spaces: texts that differ in white space alone are duplicates."""
    return ' '.join(text.split())


def text_key(texts: Sequence[str]) -> str:
    """Return what is equal for texts that differ in white space alone."""
    return '\x1f'.join(map(normalize, texts))


def choose_held_out(keys: Sequence[Sequence[str]], names: Sequence[Collection[str]], one_in: int) -> list[bool]:
    """Return for each of N examples whether it is held out, about one in `one_in` by hash.

    Examples with the same key stay together. The first of an example's keys counts unless too many examples share it
    for it to identify them (half of the number to be held out, and more than five): then the next one does. Answers to
    one question stay together, but not all chats that begin with the same system message.

    No name is in the validation split alone: the examples that would bring it there are trained on. At least one
    example is held out and at most half of them are, as far as keys and names allow.

    Args:
      keys: texts that identify an example, in the order in which they are tried, [N][≥ 1].
      names: classes, tags or labels of an example, [N].
      one_in: see above; 1 holds out everything.
    """
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for index, key in enumerate(_identities(keys, max(_FEW, len(keys) // (2 * one_in)))):
        groups[key].append(index)
    if one_in == 1:
        return [True] * len(keys)
    order = sorted(groups, key=_hash)
    chosen: set[int] = set()
    in_training = collections.Counter(name for of_one in names for name in set(of_one))

    def try_to_hold_out(group: Sequence[int]) -> None:
        of_group = collections.Counter(name for index in group for name in set(names[index]))
        stays = all(in_training[name] > count for name, count in of_group.items())
        if stays and 2 * (len(chosen) + len(group)) <= len(keys):
            chosen.update(group)
            in_training.subtract(of_group)

    for key in order:
        if is_held_out(key, one_in):
            try_to_hold_out(groups[key])
    for key in order:
        if not chosen:  # the hash holds out none that may be
            try_to_hold_out(groups[key])
    return [index in chosen for index in range(len(keys))]


def count_shared(train: Iterable[str], validation: Iterable[str]) -> int:
    """Return how many texts of the validation split are also in the training split, but for white space."""
    known = {_digest(normalize(text)) for text in train}
    return sum(_digest(normalize(text)) in known for text in validation)


def _identities(keys: Sequence[Sequence[str]], limit: int) -> list[str]:
    """Return the first key of each example that at most `limit` examples share, or its last key."""
    found = [normalize(of_one[0]) for of_one in keys]
    for level in range(1, max(map(len, keys), default=1)):
        shared = collections.Counter(found)
        found = [
            '\x1f'.join(map(normalize, of_one[: level + 1])) if shared[key] > limit and len(of_one) > level else key
            for key, of_one in zip(found, keys, strict=True)
        ]
    return found


def _hash(text: str) -> int:
    return int.from_bytes(_digest(text)[:4])


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors='surrogatepass')).digest()
