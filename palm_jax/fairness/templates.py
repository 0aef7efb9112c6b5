"""Templates of texts that differ only in the group that they name.

    {"templates": ["{name} asked where {his} card is.", "{He} works as {occupation}."],
     "groups": {"women": {"name": ["Anna", "Mary"], "he": ["she"], "his": ["her"]},
                "men": {"name": ["Paul", "John"], "he": ["he"], "his": ["his"]}},
     "lists": {"occupation": ["a nurse", "an engineer"]}}

A slot in braces is filled by the words of a group, or by a list that all groups share. A slot with a capital takes the
words with a capital.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from palm_jax.errors import UserError, closest
from palm_jax.fairness import word_lists
from palm_jax.fairness.word_lists import Groups, Words

_LOGGER = logging.getLogger(__name__)
_SLOT = re.compile(r'\{(\w+)\}')
_KEYS = ('templates', 'groups', 'lists', 'locale')


@dataclasses.dataclass(frozen=True)
class Filled:
    """A text of a template.

    Attributes:
      text: the text.
      group: group that it names.
      context: number of the template and its shared words; texts of one context differ only in the group's words.
      shared: (slot, word) of the words that all groups share.
    """

    text: str
    group: str
    context: int
    shared: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Templates:
    """Templates and the words that fill them.

    Attributes:
      name: name of the set in reports.
      templates: texts with slots.
      groups: words of the slots that differ between groups, by group and slot; a group has at most as many texts of a
        context as its longest list has words.
      lists: words of the other slots.
    """

    name: str
    templates: Words
    groups: Groups
    lists: Mapping[str, Words]

    def fill(self, most: int) -> list[Filled]:
        """Return the different texts of each context and group, at most about `most`, from contexts spread evenly."""
        contexts = list(self._contexts())
        per_context = sum(map(_size, self.groups.values()))
        kept = max(1, most // per_context)
        if len(contexts) > kept:
            _LOGGER.info('%s: %d of %d contexts are tested', self.name, kept, len(contexts))
            contexts = [contexts[i * len(contexts) // kept] for i in range(kept)]
        filled: dict[Filled, None] = {}  # a template without a group's names is the same text for all of them
        for number, (template, shared) in enumerate(contexts):
            for group, words in self.groups.items():
                for member in range(_size(words)):
                    of_member = {slot: of_slot[member % len(of_slot)] for slot, of_slot in words.items()}
                    text = _filled(template, dict(shared) | of_member)
                    filled[Filled(text[:1].upper() + text[1:], group, number, shared)] = None
        return list(filled)

    def _contexts(self) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
        of_groups = {slot for words in self.groups.values() for slot in words}
        for template in self.templates:
            slots = dict.fromkeys(slot for slot in map(_plain, _SLOT.findall(template)) if slot not in of_groups)
            for words in itertools.product(*(self.lists[slot] for slot in slots)):
                yield template, tuple(zip(slots, words, strict=True))


def _filled(template: str, known: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda slot: _word(slot[1], known), template)


def _size(words: Mapping[str, Words]) -> int:
    return max(map(len, words.values()))


def _plain(slot: str) -> str:
    return slot[0].lower() + slot[1:]


def _word(slot: str, known: Mapping[str, str]) -> str:
    word = known[_plain(slot)]
    return word[:1].upper() + word[1:] if slot[0].isupper() else word


def load(name: str) -> Templates:
    """Return a set of templates.

    Args:
      name: a built-in set, a `.json` file, or a `.txt` file with a template per line.

    Raises:
      UserError: there is no such set or file, or it is not one of templates.
    """
    path = Path(name)
    if name in word_lists.TEMPLATES:
        return _checked(name, name, word_lists.TEMPLATES[name], word_lists.groups(name), word_lists.lists())
    if path.suffix not in ('.json', '.txt') or not path.is_file():
        known = tuple(word_lists.TEMPLATES)
        raise UserError(
            f'--templates={name}: there is no such file or set.{closest(name, known)} Sets: {", ".join(known)}; files '
            'end in .json, or in .txt with a template per line.'
        )
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.txt':
        given: dict[str, Any] = {'templates': [line.strip() for line in text.splitlines() if line.strip()]}
    else:
        try:
            given = json.loads(text)
        except ValueError as error:
            raise UserError(f'{name} is not JSON: {error}.') from None
        if not isinstance(given, dict) or 'templates' not in given:
            raise UserError(f'{name} must hold an object: {{"templates": ["..."], "groups": ..., "lists": ...}}')
    for key in given:
        if key not in _KEYS:
            raise UserError(f'{name} has an unknown key {key!r}.{closest(key, _KEYS)} Keys: {", ".join(_KEYS)}.')
    locale = str(given.get('locale', 'en'))
    of_groups, lists = given.get('groups', 'gender'), given.get('lists', {})
    if isinstance(of_groups, str):
        if of_groups not in word_lists.TEMPLATES:
            known = tuple(word_lists.TEMPLATES)
            raise UserError(f'{name}: there are no groups {of_groups!r}.{closest(of_groups, known)} Known: {known}.')
        groups = word_lists.groups(of_groups, locale)
    elif isinstance(of_groups, dict) and all(isinstance(slots, dict) and slots for slots in of_groups.values()):
        groups = {
            group: {_plain(slot): _words(f'{name}, group {group!r}, {slot!r}', words) for slot, words in slots.items()}
            for group, slots in of_groups.items()
        }
    else:
        raise UserError(f'{name}: groups must be an object of groups: {{"women": {{"name": ["Anna"]}}, "men": ...}}')
    if not isinstance(lists, dict):
        raise UserError(f'{name}: lists must be an object: {{"occupation": ["a nurse"]}}')
    own = {_plain(slot): _words(f'{name}, list {slot!r}', words) for slot, words in lists.items()}
    templates = _words(f'{name}, templates', given['templates'])
    return _checked(name, path.stem, templates, groups, word_lists.lists(locale) | own)


def _words(where: str, given: Any) -> Words:
    """Return a list of words, or those of a file with one per line."""
    if isinstance(given, str):
        try:
            given = [line.strip() for line in Path(given).read_text(encoding='utf-8').splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'{where}: the file {given} cannot be read: {error}. For one write ["{given}"].') from None
    if not isinstance(given, list) or not given or not all(isinstance(word, str) and word.strip() for word in given):
        raise UserError(f'{where} must be a list of texts, or a file with one per line.')
    return tuple(given)


def _checked(where: str, name: str, templates: Sequence[str], groups: Groups, lists: Mapping[str, Words]) -> Templates:
    """Return the set, if every slot can be filled and every template names the groups.

    Raises:
      UserError: with the slot or the template.
    """
    if len(groups) < 2:
        raise UserError(f'{where}: there is one group only; two are needed.')
    slots = {slot for words in groups.values() for slot in words}
    for group, words in groups.items():
        if missing := sorted(slots - words.keys()):
            raise UserError(f'{where}: the group {group!r} has no words for {missing[0]!r}, which other groups have.')
        sizes = {len(of_slot) for of_slot in words.values()} - {1}
        if len(sizes) > 1:
            raise UserError(
                f'{where}: the lists of the group {group!r} have {" and ".join(map(str, sorted(sizes)))} words; they '
                'belong together by their place, and must be equally long, or hold one word.'
            )
    known = sorted(slots | lists.keys())
    for template in templates:
        used = list(map(_plain, _SLOT.findall(template)))
        if unknown := next((slot for slot in used if slot not in known), None):
            raise UserError(
                f'{where}: the template {template!r} has a slot {unknown!r} without words.{closest(unknown, known)} '
                f'Slots: {", ".join(known)}.'
            )
        if slots.isdisjoint(used):
            raise UserError(
                f'{where}: the template {template!r} names no group: it needs one of the slots {sorted(slots)}.'
            )
    return Templates(name, tuple(templates), groups, lists)
