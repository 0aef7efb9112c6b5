"""Entities in sequences of tags: BIO, also with E and S."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Entity(NamedTuple):
    """Words first to last (excluded) of one type."""

    type: str
    first: int
    last: int


def decode(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence's tags, by the rules of the CoNLL-2000 evaluation.

    An entity begins at B or S, and at an I or E that continues nothing of its type; it ends
    before the next beginning, before O, and behind E or S.
    """
    entities, first, kind, open_ = [], 0, '', False
    for i, tag in enumerate([*tags, 'O']):
        prefix, _, name = tag.partition('-')
        continues = open_ and prefix in ('I', 'E') and name == kind
        if open_ and not continues:
            entities.append(Entity(kind, first, i))
        if prefix != 'O' and not continues:
            first, kind = i, name
        open_ = prefix != 'O'
        if prefix in ('E', 'S'):
            entities.append(Entity(kind, first, i + 1))
            open_ = False
    return entities
