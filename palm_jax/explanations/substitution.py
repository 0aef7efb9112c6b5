"""Counterfactuals by substitution: the fewest words whose replacement by others changes a decision.

Words are replaced one after the other, each time by the substitute that costs the decision most, until it changes;
replacements that turn out not to be needed are taken back. Unlike a text without some words, one with others is a text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from palm_jax.errors import UserError

_WORD = re.compile(r"\w+(?:['’-]\w+)*")

Margins = Callable[[Sequence[str]], np.ndarray]  # texts to a number of each, above 0 where the decision is the same


@dataclasses.dataclass(frozen=True)
class Substitution:
    """A text in which some words are replaced, so that the decision changes.

    Attributes:
      text: text with the substitutes.
      words: (word, substitute) in the order of the text.
      margin: margin of the former decision, below 0.
    """

    text: str
    words: tuple[tuple[str, str], ...]
    margin: float


def substitutes_of(sets: object, where: str) -> dict[str, tuple[str, ...]]:
    """Return the substitutes of each word, in lower case, from sets of words that may take each other's place.

    Args:
      sets: list of lists of words, as in `[["credit", "debit"], ["lost", "found", "stolen"]]`.
      where: name of the file that they are from, for messages.

    Raises:
      UserError: they are not lists of at least two words.
    """
    if not isinstance(sets, list) or not sets:
        raise UserError(f'{where} must hold a list of sets of words: [["credit", "debit"], ["lost", "found"]]')
    found: dict[str, tuple[str, ...]] = {}
    for words in sets:
        is_set = isinstance(words, list) and all(isinstance(word, str) and word.strip() for word in words)
        if not is_set or len({word.lower() for word in words}) < 2:
            raise UserError(f'{where} has {words!r}; a set is a list of at least two words: ["credit", "debit"]')
        for word in words:
            others = (other for other in words if other.lower() != word.lower())
            found[word.lower()] = tuple(dict.fromkeys((*found.get(word.lower(), ()), *others)))
    return found


def substitute(margins: Margins, text: str, substitutes: Mapping[str, Sequence[str]], most: int) -> Substitution | None:
    """Return the fewest replaced words, by greedy search, with which the decision is another one.

    Args:
      margins: computes the margin of the decision for texts.
      text: text whose words are replaced.
      substitutes: words that may replace a word, by the word in lower case.
      most: most words that are replaced.

    Returns:
      None if `most` words do not suffice.
    """
    spans = [match for match in _WORD.finditer(text) if match[0].lower() in substitutes]
    options = {
        number: tuple(_in_case_of(match[0], other) for other in substitutes[match[0].lower()])
        for number, match in enumerate(spans)
    }

    def replaced(chosen: Mapping[int, str]) -> str:
        parts, end = [], 0
        for number, match in enumerate(spans):
            parts += [text[end : match.start()], chosen.get(number, match[0])]
            end = match.end()
        return ''.join([*parts, text[end:]])

    def best_of(choices: Sequence[Mapping[int, str]]) -> tuple[Mapping[int, str], float]:
        values = margins([replaced(chosen) for chosen in choices])
        best = int(np.argmin(values))
        return choices[best], float(values[best])

    chosen: Mapping[int, str] = {}
    margin = 0.0
    while margin >= 0 and len(chosen) < most:
        choices = [{**chosen, n: other} for n, others in options.items() if n not in chosen for other in others]
        if not choices:
            return None
        chosen, margin = best_of(choices)
    if margin >= 0:
        return None
    while len(chosen) > 1:
        fewer, value = best_of([{n: other for n, other in chosen.items() if n != left} for left in chosen])
        if value >= 0:
            break
        chosen, margin = fewer, value
    return Substitution(replaced(chosen), tuple((spans[n][0], chosen[n]) for n in sorted(chosen)), margin)


def margins_of(
    predict: Callable[[Sequence[str]], Sequence[Mapping[str, float]]], label: str, is_exclusive: bool
) -> Margins:
    """Return the margin of a label: its probability less that of the best other one, or of a label set less a half.

    Args:
      predict: returns the probability of each label for texts.
      label: label of the decision; of a label set one that is given, or not.
      is_exclusive: whether exactly one label is given.
    """

    def margins(texts: Sequence[str]) -> np.ndarray:
        found = predict(texts)
        if is_exclusive:
            others = [max((p for name, p in of_text.items() if name != label), default=0.0) for of_text in found]
        else:
            others = [0.5] * len(found)
        return np.array([of_text[label] - other for of_text, other in zip(found, others, strict=True)])

    return margins


def _in_case_of(word: str, other: str) -> str:
    """Return a substitute with a capital where the word has one."""
    return other[:1].upper() + other[1:] if word[:1].isupper() else other
