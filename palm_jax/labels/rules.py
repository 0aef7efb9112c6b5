"""Rules about labels: how true they are of a text and its labels, and what labels that break them cost.

Letters: E examples, C classes or tags, S states of an example's labels, W words.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np

from palm_jax.bounds import Above, checked
from palm_jax.errors import UserError, closest

START = 'start'  # what the first word of a text follows
MOST_MENTIONED = 10  # labels of label sets whose 2^M combinations are weighed
Labels = frozenset[str]


class Rule(abc.ABC):
    """A rule r(x, y) about a text x and its labels y, true to a degree from 0 to 1; it costs weight·(1 − r).

    Attributes:
      name: the rule as the report shows it.
      weight: weight λ.
    """

    name: str
    weight: float

    @abc.abstractmethod
    def check(self, names: Sequence[str], is_tagger: bool, is_exclusive: bool) -> None:
        """Raise UserError if the rule names labels that do not exist, or does not fit the kind of task.

        Args:
          names: all labels.
          is_tagger: whether words have the labels.
          is_exclusive: whether a text or word has one label.
        """


class TextRule(Rule):
    """A rule about the labels of a text, or about the tag of a word."""

    @abc.abstractmethod
    def truth(self, text: str, word: str | None, states: Sequence[Labels]) -> np.ndarray:
        """Return how true the rule is for each state, float [S] from 0 to 1.

        Args:
          text: the text, or both texts of a pair on two lines.
          word: the word whose tag the states are; None where the states are labels of the text.
          states: labels that may hold together.
        """

    def applies(self, text: str, word: str | None) -> bool:
        """Return whether the rule says anything about a text or word."""
        del text, word
        return True

    def of_states(self, states: Sequence[Labels]) -> Callable[[str, str | None], np.ndarray]:
        """Return `truth` for fixed states, as a function of a text and a word."""
        return lambda text, word: self.truth(text, word, states)

    def mentioned(self, names: Sequence[str]) -> Sequence[str]:
        """Return the labels on which the rule depends."""
        return names


class TransitionRule(Rule):
    """A rule about the tags of neighbouring words."""

    @abc.abstractmethod
    def truth(self, before: str, tag: str, names: Sequence[str]) -> float:
        """Return how true the rule is of a tag after another one, from 0 to 1; `start` is before the first word."""


@dataclasses.dataclass(frozen=True)
class Clause:
    """A condition on a text or a word.

    Attributes:
      of_word: whether it is about the word, not about the text.
      pattern: regular expression that is searched for.
      negated: whether it holds where nothing is found.
    """

    of_word: bool
    pattern: re.Pattern[str]
    negated: bool = False

    def holds(self, text: str, word: str | None) -> bool:
        """Return whether the condition holds."""
        searched = (word or '') if self.of_word else text
        return (self.pattern.search(searched) is None) == self.negated


@dataclasses.dataclass(frozen=True)
class Implication(TextRule):
    """If all clauses hold and a label of `given` does, a label of `labels` must hold, or none if `excluded`.

    Attributes:
      name: the rule as the file has it.
      location: file and line, for messages.
      clauses: conditions on the text or the word.
      labels: labels of the consequence.
      excluded: whether none of the labels may hold.
      given: labels one of which must hold for the rule to say anything; empty: it says something of all.
      weight: weight λ.
    """

    name: str
    location: str
    clauses: tuple[Clause, ...]
    labels: Labels
    excluded: bool = False
    given: Labels = frozenset()
    weight: float = 1.0

    def check(self, names, is_tagger, is_exclusive):
        """Refuse unknown labels, conditions on words where texts are labelled, and on labels where there is one."""
        for label in sorted(self.labels | self.given):
            _check_label(label, names, self.location)
        if not is_tagger and any(clause.of_word for clause in self.clauses):
            raise UserError(f'{self.location}: a condition on a word is for gin/heads/tagging.gin; write `text` here.')
        if is_exclusive and self.given:
            what = 'word has one tag' if is_tagger else 'text has one label'
            raise UserError(
                f'{self.location}: a condition on the label is for label sets (gin/heads/multilabel.gin), and here a '
                f'{what}. Write conditions on the text: if text contains "..." then label is not '
                f'{min(self.given)}'
            )

    def applies(self, text, word):
        """Return whether all clauses hold."""
        return all(clause.holds(text, word) for clause in self.clauses)

    def truth(self, text, word, states):
        """Return 0 for states that break the rule where it applies, else 1."""
        return self.of_states(states)(text, word)

    def of_states(self, states):
        """Return `truth` for fixed states, which are looked at once."""
        kept = np.array([float(self._is_kept(state)) for state in states])
        return lambda text, word: kept if self.applies(text, word) else np.ones(len(states))

    def mentioned(self, names):
        """Return the labels of the condition and of the consequence."""
        del names
        return sorted(self.labels | self.given)

    def _is_kept(self, state: Labels) -> bool:
        if self.given and not self.given & state:
            return True
        return bool(self.labels & state) != self.excluded


@checked
@dataclasses.dataclass(frozen=True)
class TextFunction(TextRule):
    """A rule written in Python.

    Attributes:
      function: function of a text and a label that returns a truth value from 0 to 1 (or a boolean). For label sets the
        second argument is the frozenset of all labels that hold; for a tagger the arguments are a word and its tag.
      weight: weight λ.
      labels: labels on which the function depends, for label sets; None is all.
    """

    function: Callable[[str, Any], float]
    weight: Annotated[float, Above(0)] = 1.0
    labels: Sequence[str] | None = None
    name: str = dataclasses.field(default='', init=False)

    def __post_init__(self) -> None:
        """Name the rule after the function."""
        object.__setattr__(self, 'name', getattr(self.function, '__qualname__', repr(self.function)))

    def check(self, names, is_tagger, is_exclusive):
        """Refuse unknown labels."""
        for label in self.labels or ():
            _check_label(label, names, f'RULES: {self.name}')

    def truth(self, text, word, states):
        """Return what the function says."""
        single = all(len(state) == 1 for state in states)
        given = [next(iter(state)) if single else state for state in states]
        return np.array(
            [_truth(f'RULES: {self.name}', self.function, text if word is None else word, y) for y in given]
        )

    def mentioned(self, names):
        """Return `labels`."""
        return names if self.labels is None else self.labels


@dataclasses.dataclass(frozen=True)
class Transition(TransitionRule):
    """A tag must follow one of some tags, or must not; X at the end of a tag stands for every type.

    Attributes:
      name: the rule as the file has it.
      location: file and line, for messages.
      tag: tag, `I-X` or `I-PER`.
      before: tags that it must follow; `start` is the beginning of the text.
      excluded: whether it must not follow any of them.
      weight: weight λ.
    """

    name: str
    location: str
    tag: str
    before: tuple[str, ...]
    excluded: bool = False
    weight: float = 1.0

    def check(self, names, is_tagger, is_exclusive):
        """Refuse unknown tags, and tasks other than tagging."""
        if not is_tagger:
            raise UserError(f'{self.location}: a rule about what a tag follows is for gin/heads/tagging.gin.')
        prefixes = {name.partition('-')[0] for name in names if '-' in name}
        for tag in (self.tag, *self.before):
            prefix, _, kind = tag.partition('-')
            if tag != START and not (kind == 'X' and prefix in prefixes):
                _check_label(tag, names, self.location)

    def truth(self, before, tag, names):
        """Return 0 for a pair of tags that breaks the rule, else 1."""
        kind = _matches(self.tag, tag, None, names)
        if kind is None:
            return 1.0
        found = any(_matches(allowed, before, kind or None, names) is not None for allowed in self.before)
        return float(found != self.excluded)


@checked
@dataclasses.dataclass(frozen=True)
class TransitionFunction(TransitionRule):
    """A rule about neighbouring tags, written in Python.

    Attributes:
      function: function of the tag before and a tag that returns a truth value from 0 to 1; the tag before the first
        word is `start`.
      weight: weight λ.
    """

    function: Callable[[str, str], float]
    weight: Annotated[float, Above(0)] = 1.0
    name: str = dataclasses.field(default='', init=False)

    def __post_init__(self) -> None:
        """Name the rule after the function."""
        object.__setattr__(self, 'name', getattr(self.function, '__qualname__', repr(self.function)))

    def check(self, names, is_tagger, is_exclusive):
        """Refuse tasks other than tagging."""
        if not is_tagger:
            raise UserError(
                f'TRANSITION_RULES: {self.name} is about what a tag follows, which is for gin/heads/tagging.gin.'
            )

    def truth(self, before, tag, names):
        """Return what the function says."""
        return _truth(f'TRANSITION_RULES: {self.name}', self.function, before, tag)


def states_of(rules: Sequence[Rule], names: Sequence[str], is_exclusive: bool) -> tuple[list[Labels], list[int]]:
    """Return the states of an example's labels that rules tell apart, and the ids of the labels they consist of.

    Exclusive labels have a state per class, in order. Of label sets, the M labels that rules mention have 2^M states:
    state number s has the m-th of them if bit m of s is set.

    Raises:
      UserError: rules mention more than 10 labels of label sets.
    """
    if is_exclusive:
        return [frozenset([name]) for name in names], list(range(len(names)))
    of_texts = [rule for rule in rules if isinstance(rule, TextRule)]
    chosen = {label for rule in of_texts for label in rule.mentioned(names)}
    ids = [c for c, name in enumerate(names) if name in chosen]
    if len(ids) > MOST_MENTIONED:
        raise UserError(
            f'The rules are about {len(ids)} labels; of label sets, they may be about {MOST_MENTIONED}, because all '
            'combinations are weighed. Functions name theirs: rules.TextFunction.labels = [...]'
        )
    bits = itertools.product((False, True), repeat=len(ids))  # the last one changes fastest
    return [frozenset(names[c] for c, has in zip(ids, reversed(b), strict=True) if has) for b in bits], ids


def penalties(rules: Sequence[Rule], texts: Sequence[tuple[str, str | None]], states: Sequence[Labels]) -> np.ndarray:
    """Return Σ weight·(1 − r) of each state, float32 [E, S].

    Args:
      rules: rules, of which those about texts and words count.
      texts: text of every example, or text and word.
      states: see `states_of`.
    """
    total = np.zeros((len(texts), len(states)))
    of_texts = [(rule.weight, rule.of_states(states)) for rule in rules if isinstance(rule, TextRule)]
    for row, (text, word) in enumerate(texts):
        for weight, truth in of_texts:
            total[row] += weight * (1 - truth(text, word))
    return total.astype(np.float32)


def transition_penalties(rules: Sequence[Rule], names: Sequence[str]) -> np.ndarray:
    """Return Σ weight·(1 − r) of each tag after another one, float32 [C + 1, C]; the last row is that of `start`."""
    total = np.zeros((len(names) + 1, len(names)))
    for rule in rules:
        if isinstance(rule, TransitionRule):
            truth = [[rule.truth(before, tag, names) for tag in names] for before in (*names, START)]
            total += rule.weight * (1 - np.array(truth))
    return total.astype(np.float32)


def _check_label(label: str, names: Sequence[str], location: str) -> None:
    if label not in names:
        shown = f'{", ".join(names[:20])}{" ..." if len(names) > 20 else ""}'
        raise UserError(f'{location}: there is no label {label!r}.{closest(label, names)} Labels: {shown}.')


def _matches(pattern: str, tag: str, kind: str | None, names: Sequence[str]) -> str | None:
    """Return the type that X stands for if a tag is of a pattern, an empty text without X; None if it is not."""
    prefix, _, of_pattern = pattern.partition('-')
    if of_pattern != 'X' or pattern in names:
        return (kind or '') if pattern == tag else None
    own_prefix, _, own_kind = tag.partition('-')
    return own_kind if own_prefix == prefix and own_kind and kind in (None, own_kind) else None


def _truth(name: str, function: Callable[[Any, Any], float], *arguments: Any) -> float:
    try:
        value = function(*arguments)
    except Exception as error:
        raise UserError(f'{name}{arguments!r} raised {type(error).__name__}: {error}') from error
    if not isinstance(value, bool | int | float | np.generic) or not 0 <= float(value) <= 1:
        raise UserError(f'{name}{arguments!r} is {value!r}; it must be a truth value from 0 to 1.')
    return float(value)
