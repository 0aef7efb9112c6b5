"""Entity replacement (mention replacement, Dai and Adel, arXiv 2010.11683) for sentences with tags."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Annotated

from palm_jax.bounds import Above, AtMost, checked
from palm_jax.data.augmentation.augmented import Augmenter
from palm_jax.errors import UserError
from palm_jax.metrics import entities

_Mention = tuple[tuple[str, ...], tuple[str, ...]]  # words, and their tags


@checked
@dataclasses.dataclass(frozen=True)
class EntityReplacement(Augmenter):
    """Replaces each entity with a probability by another one of its type, of the training part, with its tags.

    Attributes:
      probability: probability of a replacement for each entity.
      mentions: entities of the training part by type; `prepared` finds them.
    """

    probability: Annotated[float, Above(0), AtMost(1)] = 0.5
    mentions: Mapping[str, tuple[_Mention, ...]] | None = None

    name = 'entity replacement'

    def prepared(self, examples):
        """Return an augmenter that has the entities of the training part, each once."""
        found: dict[str, dict[_Mention, None]] = collections.defaultdict(dict)
        for sentence in examples:
            if not hasattr(sentence, 'tags'):
                raise UserError('Entity replacement needs sentences with tags: --gin_file=gin/heads/tagging.gin.')
            for entity in entities.decode(sentence.tags):
                part = slice(entity.first, entity.last)
                found[entity.type][sentence.words[part], sentence.tags[part]] = None
        return dataclasses.replace(self, mentions={name: tuple(mentions) for name, mentions in found.items()})

    def augment(self, example, copy, rng):
        """Return the sentence with other entities, or itself if it has none."""
        del copy
        words, tags, position = list[str](), list[str](), 0
        for entity in entities.decode(example.tags):
            words += example.words[position : entity.first]
            tags += example.tags[position : entity.first]
            position = entity.last
            mention = example.words[entity.first : entity.last], example.tags[entity.first : entity.last]
            if rng.random() < self.probability:
                others = (self.mentions or {})[entity.type]
                mention = others[rng.integers(len(others))]
            words += mention[0]
            tags += mention[1]
        words += example.words[position:]
        tags += example.tags[position:]
        return dataclasses.replace(example, words=tuple(words), tags=tuple(tags))
