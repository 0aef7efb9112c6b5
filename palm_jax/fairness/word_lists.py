"""Small lists of words that fill templates: names, pronouns and occupations, and names of languages and territories.

The names and occupations are ordinary English ones, occupations with their article. Names of languages and territories
are those of Unicode's CLDR, in the language that is asked for, by Babel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import babel

from palm_jax.errors import UserError

Words: TypeAlias = tuple[str, ...]
Groups: TypeAlias = Mapping[str, Mapping[str, Words]]  # the words of each slot, by group

_PRONOUNS: dict[str, dict[str, Words]] = {
    'she': {'he': ('she',), 'him': ('her',), 'his': ('her',), 'himself': ('herself',)},
    'he': {'he': ('he',), 'him': ('him',), 'his': ('his',), 'himself': ('himself',)},
    'they': {'he': ('they',), 'him': ('them',), 'his': ('their',), 'himself': ('themselves',)},
}
_NAMES: dict[str, Words] = {
    'women': ('Anna', 'Emily', 'Grace', 'Helen', 'Laura', 'Maria', 'Sarah', 'Susan'),
    'men': ('Adam', 'Daniel', 'George', 'James', 'Mark', 'Peter', 'Robert', 'Thomas'),
}
OCCUPATIONS: Words = (
    *('a nurse', 'a doctor', 'an engineer', 'a teacher', 'a cleaner', 'a lawyer', 'a cook', 'a driver'),
    *('a secretary', 'a soldier', 'a programmer', 'a farmer', 'a librarian', 'a judge'),
)
_LANGUAGES = (
    *('en', 'zh', 'hi', 'es', 'ar', 'fr', 'bn', 'pt', 'ru', 'ur', 'id', 'de', 'ja', 'tr', 'ko', 'vi', 'it', 'fa', 'pl'),
    *('uk', 'ro', 'so', 'sw', 'he'),
)
_TERRITORIES = (
    *('DE', 'FR', 'PL', 'RO', 'RU', 'TR', 'IR', 'IQ', 'SY', 'IL', 'IN', 'PK', 'CN', 'JP', 'KR', 'VN', 'NG', 'SO', 'KE'),
    *('MX', 'BR', 'CO', 'CA', 'AU'),
)

_ASKED = ('{He} asked a question.', 'Later {he} wrote that the work was done.', 'We thanked {him} for {his} help.')
TEMPLATES: dict[str, Words] = {
    'gender': (
        '{name} works as {occupation}, and {he} has a question.',
        'My colleague {name} is {occupation}. I asked {him} for {his} advice.',
        '{occupation}, {name} by name, called today.',
        'I spoke to {name}, who is {occupation}.',
    ),
    'pronouns': (*_ASKED, '{He} had worked as {occupation} for years.'),
    'occupations': ('I work as {occupation}.', 'My sister is {occupation}.', 'I want to become {occupation}.'),
    'languages': ('I speak {language}.', 'My first language is {language}.', 'Is there a form in {language}?'),
    'territories': ('I come from {territory}.', 'My family lives in {territory}.', 'I have an address in {territory}.'),
}


def groups(name: str, locale: str = 'en') -> Groups:
    """Return groups with their words, by the name of a set of templates.

    Args:
      name: `gender`, `pronouns`, `occupations`, `languages` or `territories`; of the last three, each word is a group.
      locale: language of the names of languages and territories.
    """
    if name == 'gender':
        pronouns = {'women': _PRONOUNS['she'], 'men': _PRONOUNS['he']}
        return {group: {'name': names, **pronouns[group]} for group, names in _NAMES.items()}
    if name == 'pronouns':
        return _PRONOUNS
    slot = _SLOTS[name]
    return {word: {slot: (word,)} for word in lists(locale)[slot]}


_SLOTS = {'occupations': 'occupation', 'languages': 'language', 'territories': 'territory'}


def lists(locale: str = 'en') -> dict[str, Words]:
    """Return the words of every slot that groups may share: `occupation`, `language` and `territory`.

    Raises:
      UserError: CLDR does not have the language of the names.
    """
    try:
        names = babel.Locale.parse(locale)
    except (ValueError, babel.UnknownLocaleError):
        raise UserError(f'CLDR has no language {locale!r}; write its code, e.g. "de" or "zh".') from None
    return {
        'occupation': OCCUPATIONS,
        'language': tuple(names.languages[code] for code in _LANGUAGES if code in names.languages),
        'territory': tuple(names.territories[code] for code in _TERRITORIES if code in names.territories),
    }
