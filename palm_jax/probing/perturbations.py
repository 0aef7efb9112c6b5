"""Changes of texts: typing mistakes, case, blanks, homoglyphs, punctuation, gender, numbers, negation, synonyms.

A change is a function of the text and the seed alone. It returns the text itself where there is nothing to change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

_WORD = re.compile(r'[^\W\d_]{4,}')
_ANY_WORD = re.compile(r'[^\W\d_]+')
_SHARE = 0.2  # of the words, or letters, that a change touches, at least one
_KEYS = ('qwertyuiop', 'asdfghjkl', 'zxcvbnm')
_NEIGHBOURS = {key: row[max(i - 1, 0) : i] + row[i + 1 : i + 2] for row in _KEYS for i, key in enumerate(row)}
_HOMOGLYPHS = dict(zip('aceiopxyABCEHIKMOPTX', 'асеіорхуАВСЕНІКМОРТХ', strict=True))  # Cyrillic letters that look alike
_AUXILIARY = re.compile(
    r"\b(?:(?P<cut>ca|wo)n['’]t"
    r"|(?P<whole>is|are|was|were|do|does|did|can|could|will|would|should|has|have|had|must)(?P<not>n['’]t|\ not)?)\b",
    re.IGNORECASE,
)
_UNCUT = {'ca': 'can', 'wo': 'will'}

_GENDERS = (
    *(('he', 'she'), ('himself', 'herself'), ('man', 'woman'), ('men', 'women'), ('boy', 'girl'), ('boys', 'girls')),
    *(('father', 'mother'), ('dad', 'mum'), ('son', 'daughter'), ('brother', 'sister'), ('husband', 'wife')),
    *(('uncle', 'aunt'), ('mr', 'mrs'), ('sir', 'madam'), ('king', 'queen'), ('male', 'female')),
)
_OTHER_GENDER = {a: b for pair in _GENDERS for a, b in (pair, pair[::-1])} | {'him': 'her', 'hers': 'his'}
_GENDERED = re.compile(rf'\b({"|".join((*_OTHER_GENDER, "his", "her"))})\b(?=(?P<word>\s+\w)?)', re.IGNORECASE)

Expectation = Literal['same', 'any']


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """A change of texts.

    Attributes:
      name: name of the change.
      change: function of a text and a random generator.
      expectation: `same` if predictions should not change, `any` if the meaning may change and predictions with it.
      keeps_words: whether it may be applied to each word alone, as a tagger needs.
    """

    name: str
    change: Callable[[str, np.random.Generator], str]
    expectation: Expectation = 'same'
    keeps_words: bool = True

    def __call__(self, text: str, seed: int = 0) -> str:
        """Return the changed text, or the text itself."""
        digest = hashlib.sha256(f'{seed} {self.name} {text}'.encode('utf-8', errors='surrogatepass')).digest()
        return self.change(text, np.random.default_rng(int.from_bytes(digest[:8], 'little')))


def _typos(text: str, rng: np.random.Generator) -> str:
    """Swap two letters inside a word, drop or double one, or hit the key beside it, in a fifth of the longer words."""
    words = list(_WORD.finditer(text))
    for i in sorted(_some(len(words), rng), reverse=True):
        start, end = words[i].span()
        at, how = int(rng.integers(start + 1, end - 1)), rng.integers(4)
        letter = text[at]
        if how == 0:
            changed, last = text[at + 1] + letter, at + 2
        elif how == 1:
            changed, last = '', at + 1
        elif how == 2 or letter.lower() not in _NEIGHBOURS:
            changed, last = letter * 2, at + 1
        else:
            changed, last = str(rng.choice(list(_NEIGHBOURS[letter.lower()]))), at + 1
        text = text[:at] + changed + text[last:]
    return text


def _homoglyphs(text: str, rng: np.random.Generator) -> str:
    """Replace a fifth of the letters that have a Cyrillic twin by it."""
    places = [i for i, letter in enumerate(text) if letter in _HOMOGLYPHS]
    letters = list(text)
    for i in _some(len(places), rng):
        letters[places[i]] = _HOMOGLYPHS[letters[places[i]]]
    return ''.join(letters)


def _blanks(text: str, rng: np.random.Generator) -> str:
    """Double a fifth of the blanks, and put blanks before and after the text."""
    places = [match.start() for match in re.finditer(' ', text)]
    for i in sorted(_some(len(places), rng), reverse=True):
        text = f'{text[: places[i]]} {text[places[i] :]}'
    return f' {text}  '


def _punctuation(text: str, rng: np.random.Generator) -> str:
    """Remove the punctuation at the end, or add a period where there is none."""
    del rng
    without = text.rstrip(' .!?…')
    return without if without and without != text else f'{text}.'


def _numbers(text: str, rng: np.random.Generator) -> str:
    """Replace every number by another one with as many digits."""

    def other(match: re.Match) -> str:
        digits = [str(rng.integers(1 if i == 0 and len(match[0]) > 1 else 0, 10)) for i in range(len(match[0]))]
        return ''.join(digits)

    return re.sub(r'\d+', other, text)


def _negation(text: str, rng: np.random.Generator) -> str:
    """Put `not` after the first English auxiliary, or take it away."""
    del rng

    def other(match: re.Match) -> str:
        if match['cut']:
            whole = _UNCUT[match['cut'].lower()]
            return whole.capitalize() if match['cut'][0].isupper() else whole
        return match['whole'] if match['not'] else f'{match["whole"]} not'

    return _AUXILIARY.sub(other, text, count=1)


def _gender(text: str, rng: np.random.Generator) -> str:
    """Swap English words for men and women: he and she, father and mother, Mr and Mrs."""
    del rng

    def other(match: re.Match) -> str:
        word = match[1].lower()
        if word == 'her':  # her book, with her
            found = 'his' if match['word'] else 'him'
        elif word == 'his':  # his book, it is his
            found = 'her' if match['word'] else 'hers'
        else:
            found = _OTHER_GENDER[word]
        if match[1].isupper() and len(match[1]) > 1:
            return found.upper()
        return found.capitalize() if match[1][0].isupper() else found

    return _GENDERED.sub(other, text)


def of_synonyms(synonyms: Callable[[str], Sequence[str]]) -> Perturbation:
    """Return the change that replaces a fifth of the words that have synonyms by one of them.

    Args:
      synonyms: returns the synonyms of a word, with its case.
    """

    def change(text: str, rng: np.random.Generator) -> str:
        words = [(*match.span(), found) for match in _ANY_WORD.finditer(text) if (found := synonyms(match[0]))]
        for i in sorted(_some(len(words), rng), reverse=True):
            start, end, found = words[i]
            text = text[:start] + found[int(rng.integers(len(found)))] + text[end:]
        return text

    return Perturbation('synonyms', change, keeps_words=False)


def _some(count: int, rng: np.random.Generator) -> list[int]:
    """Return a fifth of the numbers below `count`, at least one of them."""
    return rng.choice(count, max(1, round(_SHARE * count)), replace=False).tolist() if count else []


PERTURBATIONS = {
    p.name: p
    for p in (
        Perturbation('typos', _typos),
        Perturbation('uppercase', lambda text, rng: text.upper()),
        Perturbation('lowercase', lambda text, rng: text.lower()),
        Perturbation('blanks', _blanks, keeps_words=False),
        Perturbation('punctuation', _punctuation, keeps_words=False),
        Perturbation('homoglyphs', _homoglyphs),
        Perturbation('gender', _gender),
        Perturbation('numbers', _numbers, 'any'),
        Perturbation('negation', _negation, 'any', keeps_words=False),
    )
}
