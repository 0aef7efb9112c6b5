"""Named entities in tag sequences: BIO, also with E and S."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Entity(NamedTuple):
    """An entity: words `first` to `last` (exclusive) of one type."""

    type: str
    first: int
    last: int


def decode(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a sentence's tags, by the rules of the CoNLL-2000 evaluation.

    An entity begins at B or S, and at an I or E that does not continue one of its type; it ends
    before the next beginning, before O, and after E or S.
    """
    entities: list[Entity] = []
    first, kind, is_open = 0, '', False
    for i, tag in enumerate([*tags, 'O']):
        prefix, _, name = tag.partition('-')
        continues = is_open and prefix in ('I', 'E') and name == kind
        if is_open and not continues:
            entities.append(Entity(kind, first, i))
        if prefix != 'O' and not continues:
            first, kind = i, name
        is_open = prefix != 'O'
        if prefix in ('E', 'S'):
            entities.append(Entity(kind, first, i + 1))
            is_open = False
    return entities
