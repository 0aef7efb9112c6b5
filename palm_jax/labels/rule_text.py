r"""The text form of rules about labels, one per line; `#` begins a comment.

if text contains "refund" then label in {refund_not_showing_up, request_refund}
if text has word "pin" and not text matches "\bnew\b" then label is not change_pin weight 0.5
if label is a then label in {b, c}
if word matches "^\d+$" then tag is O
I-X must follow B-X or I-X
B-X must not follow start
"""

from __future__ import annotations

import re

from palm_jax.errors import UserError
from palm_jax.labels.rules import Clause, Implication, Rule, Transition

_TOKEN = re.compile(
    r'\s*(?:"(?P<double>(?:[^"\\]|\\.)*)"|\'(?P<single>(?:[^\'\\]|\\.)*)\'|(?P<mark>[{},])|(?P<name>[^\s{},"\']+))'
)
_CURLY = '“”„‟‘’‚‛«»'
_FORMS = (
    'Forms: if text contains "..." then label in {a, b}; if text matches "..." and not text has word "..." then '
    'label is not a; if label is a then label is b; if word matches "..." then tag is O; I-X must follow B-X or I-X; '
    'each may end with a weight: weight 0.5'
)


def parse(line: str, location: str) -> Rule:
    """Return the rule of a line.

    Keywords may be in upper or lower case. `contains` looks for a text anywhere and `has word` for whole words, both
    without regard to upper and lower case; `matches` searches for a regular expression. Names with blanks or commas,
    and those that are keywords, are written in quotation marks.

    Args:
      line: line without comment.
      location: file and line, for messages.

    Raises:
      UserError: the line is not a rule; the message says where it ceases to be one.
    """
    return _Parser(line.strip(), location).rule()


def without_comment(line: str) -> str:
    """Return a line without the comment that `#` begins outside quotation marks."""
    found = re.match(r'(?:[^#"\']|"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\')*', line)
    rest = line[found.end() :] if found else ''
    return line if rest and not rest.startswith('#') else line[: len(line) - len(rest)]


class _Parser:
    """Reads a line from left to right."""

    def __init__(self, line: str, location: str):
        self._line, self._location, self._position = line, location, 0
        self._tokens: list[tuple[str, bool]] = []  # text, and whether it was in quotation marks
        self._ends: list[int] = []
        at = 0
        while at < len(line.rstrip()):
            found = _TOKEN.match(line, at)
            if line[at:].lstrip()[0] in _CURLY or (found is None and set(line[at:]) & set(_CURLY)):
                raise UserError(f"""{location}: quotation marks must be straight, " or ': {line[at:].strip()[:60]}""")
            if found is None:
                raise UserError(f'{location}: a quotation mark is not closed: {line[at:].strip()[:60]}')
            kind, at = found.lastgroup, found.end()
            quoted = kind in ('double', 'single')
            text = found[kind or 0]
            self._tokens.append((re.sub(r'\\(["\'])', r'\1', text) if quoted else text, quoted))
            self._ends.append(at)

    def rule(self) -> Rule:
        """Return the rule."""
        if self._accept('if'):
            return self._implication()
        return self._transition()

    def _implication(self) -> Rule:
        clauses: list[Clause] = []
        given: frozenset[str] = frozenset()
        while True:
            if self._accept('label'):
                if given:
                    raise self._error('a second condition on the label')
                labels, excluded = self._labels()
                if excluded:
                    raise self._error('a condition on the label without `not`')
                given = labels
            else:
                clauses.append(self._clause())
            if not self._accept('and'):
                break
        self._expect('then')
        self._expect('label', 'tag')
        labels, excluded = self._labels()
        weight = self._weight()
        return Implication(self._line, self._location, tuple(clauses), labels, excluded, given, weight)

    def _clause(self) -> Clause:
        negated = self._accept('not')
        of_word = self._expect('text', 'word') == 'word'
        verb = self._expect('contains', 'matches', 'has')
        if verb == 'has':
            self._expect('word')
        text = self._take('a text in quotation marks', quoted=True)
        if verb == 'matches':
            try:
                return Clause(of_word, re.compile(text), negated)
            except re.error as error:
                raise UserError(f'{self._location}: {text!r} is not a regular expression: {error}.') from None
        pattern = re.escape(text)
        if verb == 'has':
            pattern = rf'(?<!\w){pattern}(?!\w)'
        return Clause(of_word, re.compile(pattern, re.IGNORECASE), negated)

    def _labels(self) -> tuple[frozenset[str], bool]:
        """`is a`, `is not a`, `in {a, b}` or `not in {a, b}`: the labels, and whether they are excluded."""
        if self._accept('is'):
            excluded = self._accept('not')
            return frozenset([self._take('a label')]), excluded
        excluded = self._accept('not')
        self._expect('in')
        self._expect('{')
        found = [self._take('a label')]
        while self._expect(',', '}') == ',':
            found.append(self._take('a label'))
        return frozenset(found), excluded

    def _transition(self) -> Rule:
        self._accept('tag')
        tag = self._take('`if` or a tag')
        self._expect('must')
        excluded = self._accept('not')
        self._expect('follow')
        before = [self._take('a tag')]
        while self._accept('or'):
            before.append(self._take('a tag'))
        return Transition(self._line, self._location, tag, tuple(before), excluded, self._weight())

    def _weight(self) -> float:
        """`weight 0.5` or nothing, at the end of the line."""
        weight = 1.0
        if self._accept('weight'):
            text = self._take('a number')
            try:
                weight = float(text)
            except ValueError:
                weight = 0.0
            if not 0 < weight < float('inf'):
                raise UserError(f'{self._location}: the weight is {text!r}; it must be a number above 0.')
        if self._position < len(self._tokens):
            raise self._error('the end of the line')
        return weight

    def _accept(self, word: str) -> bool:
        """Skip a keyword if it is the next word, in upper or lower case."""
        if self._position >= len(self._tokens):
            return False
        text, is_quoted = self._tokens[self._position]
        if is_quoted or text.lower() != word:
            return False
        self._position += 1
        return True

    def _expect(self, *words: str) -> str:
        """Skip and return the next word, which must be one of these."""
        for word in words:
            if self._accept(word):
                return word
        raise self._error(' or '.join(f'`{word}`' for word in words))

    def _take(self, what: str, quoted: bool = False) -> str:
        """Return the next name or text."""
        if self._position >= len(self._tokens):
            raise self._error(what)
        text, was_quoted = self._tokens[self._position]
        if (quoted and not was_quoted) or (not was_quoted and text in '{},') or not text:
            raise self._error(what)
        self._position += 1
        return text

    def _error(self, wanted: str) -> UserError:
        before = self._line[: self._ends[self._position - 1]] if self._position else ''
        rest = self._line[len(before) :].strip()
        where = f'after `{before}`' if before else 'at the beginning'
        return UserError(
            f'{self._location}: {where} there must be {wanted}, not {f"`{rest[:40]}`" if rest else "the end"}. {_FORMS}'
        )
