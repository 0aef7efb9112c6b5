"""The batches of any task, with triples of a knowledge graph beside every row."""

from __future__ import annotations

import collections
import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import grain
import numpy as np

from palm_jax.bounds import AtLeast, Seed, checked
from palm_jax.data.readers import triples
from palm_jax.data.readers.splits import Split, choose_held_out
from palm_jax.data.supervised.examples import Batch, token_features
from palm_jax.errors import UserError
from palm_jax.special_ids import EOS_ID
from palm_jax.wording import counted

_TRIES = 50  # for a triple that is wrong
Fact = tuple[int, int, int]  # numbers of head, relation and tail


@checked
class WithTriples:
    """The batches of a task, each row with triples and a wrong one for each; implements `interfaces.Data`.

    Features are `triple_tokens` and `triple_segment_ids`, int32 [B, K, 3, L], the names of head, tail and of the entity
    that replaces one of them; `triple_relations`, int32 [B, K]; and `triple_corrupts_tail`, int32 [B, K]. They are
    functions of the seed and of the number of the row. Entities of the same name are one entity. Everything else is
    that of the task.

    Args:
      data: data of the task.
      files: path or glob of triples, see `readers.triples.read`.
      validation_files: path or glob of the held-out triples; None holds out one in ten by hash, so that every relation
        of them and, where possible, every entity is in training.
      beside: number K of triples beside every row.
      length: tokens of a name at most; longer ones are cut.
      max_relations: largest number of relations.
      seed: seed for shuffling and for wrong triples.
    """

    def __init__(
        self,
        data: Any,
        files: str | None,
        validation_files: str | None = None,
        beside: Annotated[int, AtLeast(1)] = 1,
        length: Annotated[int, AtLeast(3)] = 16,
        max_relations: Annotated[int, AtLeast(1)] = 256,
        seed: Seed = 0,
    ):
        self._data, self._files, self._validation_files = data, files, validation_files
        self._beside, self._length, self._max_relations, self._seed = beside, length, max_relations, seed

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        return getattr(self._data, name)

    def batch(self, first: int, size: int) -> Batch:
        """Return the rows first, first + 1, ..., and the triples beside them."""
        return self._data.batch(first, size) | self._triples(first, size)

    def blank(self) -> Batch:
        """Return a row, for the names, shapes and types of the features."""
        names = np.zeros((self._beside, 3, self._length), np.int32)
        numbers = np.zeros(self._beside, np.int32)
        beside = {'triple_tokens': names, 'triple_segment_ids': names}
        return self._data.blank() | beside | {'triple_relations': numbers, 'triple_corrupts_tail': numbers}

    def describe(self) -> str:
        """Return both parts in numbers, and what the triples are."""
        train, held_out = (len(self.facts(split)) for split in ('train', 'validation'))
        cut = sum(len(self._ids(name)) > self._length for name in self.entities)
        return (
            f'{self._data.describe()}\n'
            f'triples    {counted(train, "triple")}, {self._beside} beside each row; {held_out:,} held out; '
            f'{counted(len(self.entities), "entity", "entities")}, {counted(len(self.relations), "relation")}'
            + (f'; {counted(cut, "name")} longer than {self._length} tokens and cut' if cut else '')
        )

    def identity(self) -> dict[str, dict[str, Any]]:
        """Return the identity of the task's data, with that of the triples in each part's."""
        found = self._data.identity()
        splits: tuple[Split, ...] = ('train', 'validation')
        for split in splits:
            text = f'{found[split]["sha256"]} {self.entities} {self.relations} {self.facts(split)}'
            found = found | {split: found[split] | {'sha256': hashlib.sha256(text.encode()).hexdigest()}}
        return found

    @property
    def entities(self) -> Sequence[str]:
        """Names of all entities, sorted."""
        return self._graph[0]

    @property
    def relations(self) -> Sequence[str]:
        """Identifiers of all relations, sorted."""
        return self._graph[1]

    def facts(self, split: Split) -> list[Fact]:
        """Return the triples of a split as numbers of head, relation and tail."""
        return self._graph[2] if split == 'train' else self._graph[3]

    def names(self, entities: Iterable[int]) -> Batch:
        """Return the names of entities as `decoder_input_tokens` and `decoder_segment_ids`, int32 [N, L]."""
        ids = [self._ids(self.entities[entity])[: self._length] for entity in entities]
        return token_features(ids, self._length, getattr(self._data, 'bidirectional', False))

    def known_answers(self) -> tuple[dict[tuple[int, int], set[int]], dict[tuple[int, int], set[int]]]:
        """Return all tails by head and relation, and all heads by relation and tail, of both splits."""
        tails: dict[tuple[int, int], set[int]] = collections.defaultdict(set)
        heads: dict[tuple[int, int], set[int]] = collections.defaultdict(set)
        for head, relation, tail in (*self.facts('train'), *self.facts('validation')):
            tails[head, relation].add(tail)
            heads[relation, tail].add(head)
        return tails, heads

    def _ids(self, name: str) -> list[int]:
        vocabulary = self._data.vocabulary
        return [*vocabulary.start_ids, *vocabulary.encode(name), EOS_ID]

    def _triples(self, first: int, size: int) -> Batch:
        """The triples beside `size` rows of the endless order."""
        numbers = range(first * self._beside, (first + size) * self._beside)
        facts = [self.facts('train')[self._order[number]] for number in numbers]
        wrong = [self._wrong(fact, number) for fact, number in zip(facts, numbers, strict=True)]
        chosen = [entity for (h, _, t), (other, _) in zip(facts, wrong, strict=True) for entity in (h, t, other)]
        names, shape = self.names(chosen), (size, self._beside)
        return {
            'triple_tokens': names['decoder_input_tokens'].reshape(*shape, 3, -1),
            'triple_segment_ids': names['decoder_segment_ids'].reshape(*shape, 3, -1),
            'triple_relations': np.array([relation for _, relation, _ in facts], np.int32).reshape(shape),
            'triple_corrupts_tail': np.array([is_tail for _, is_tail in wrong], np.int32).reshape(shape),
        }

    def _wrong(self, fact: Fact, number: int) -> tuple[int, bool]:
        """Return the entity that replaces head or tail, and whether it is the tail; no known triple is made."""
        rng = np.random.default_rng((self._seed, number))
        head, relation, tail = fact
        for _ in range(_TRIES):
            is_tail, other = bool(rng.integers(2)), int(rng.integers(len(self.entities)))
            made = (head, relation, other) if is_tail else (other, relation, tail)
            if made not in self._known:
                break
        return other, is_tail

    @functools.cached_property
    def _known(self) -> set[Fact]:
        return set(self.facts('train'))

    @functools.cached_property
    def _order(self) -> Any:
        return grain.MapDataset.source(list(range(len(self.facts('train'))))).shuffle(seed=self._seed).repeat()

    @functools.cached_property
    def _graph(self) -> tuple[list[str], list[str], list[Fact], list[Fact]]:
        """Entities, relations, and the triples of both splits."""
        train, held_out = self._named(self._files, 'TRIPLES'), list[tuple[str, str, str]]()
        if self._validation_files is not None:
            held_out = self._named(self._validation_files, 'VALIDATION_TRIPLES')
        else:
            chosen = self._held_out(train)
            held_out = [fact for fact, out in zip(train, chosen, strict=True) if out]
            train = [fact for fact, out in zip(train, chosen, strict=True) if not out]
        entities = sorted({name for head, _, tail in (*train, *held_out) for name in (head, tail)})
        relations = sorted({relation for _, relation, _ in (*train, *held_out)})
        if len(relations) > self._max_relations:
            raise UserError(
                f'TRIPLES = {self._files!r} has {len(relations)} relations, more than MAX_RELATIONS = '
                f'{self._max_relations}. Set --gin.MAX_RELATIONS={len(relations)}.'
            )
        if len(entities) < 3:
            raise UserError(f'TRIPLES = {self._files!r} is about {len(entities)} entities, too few for wrong triples.')
        number = {name: i for i, name in enumerate(entities)}
        of_relation = {name: i for i, name in enumerate(relations)}
        numbered = [[(number[h], of_relation[r], number[t]) for h, r, t in part] for part in (train, held_out)]
        return entities, relations, numbered[0], numbered[1]

    def _held_out(self, facts: Sequence[tuple[str, str, str]]) -> list[bool]:
        """Return which triples are held out; where each is the only one of an entity, relations alone must be known."""
        keys = [('\x1f'.join(fact),) for fact in facts]
        of_entities = [{f'entity {head}', f'relation {relation}', f'entity {tail}'} for head, relation, tail in facts]
        for names in (of_entities, [{relation} for _, relation, _ in facts]):
            if any(chosen := choose_held_out(keys, names, 10)):
                return chosen
        raise UserError(
            f'TRIPLES = {self._files!r} has {counted(len(facts), "triple")}, none of which can be held out. Name those '
            'to measure: --gin.VALIDATION_TRIPLES=...'
        )

    def _named(self, files: str | None, binding: str) -> list[tuple[str, str, str]]:
        """Triples with the names of their entities, each once."""
        found = triples.read(files, binding)
        facts = [(found.entity(t.head), t.relation, found.entity(t.tail)) for t in found.facts]
        return list(dict.fromkeys(facts))
