"""Rules about the texts that a server is asked and writes: words, patterns, and scores of models.

    [
      {"name": "insults", "words": ["idiot"], "of": "both", "action": "refuse"},
      {"name": "card numbers", "pattern": "\\\\b(?:\\\\d[ -]?){15}\\\\d\\\\b", "of": "input", "action": "refuse"},
      {"name": "toxic", "model": "runs/toxicity", "label": "toxic", "threshold": 0.8, "of": "output"},
      {"name": "mine", "function": "my_scorers:toxicity", "threshold": 0.5, "action": "record"}
    ]

A rule scores a text between 0 and 1 and applies from its threshold on. Every text that a rule applies to is a line of
the audit log, with the rule, its version, the score, and the hash of the text.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from palm_jax.errors import UserError, closest, located
from palm_jax.monitoring.audit_log import AuditLog

Scorer: TypeAlias = Callable[[Sequence[str]], Sequence[float]]  # texts to a score of each, from 0 to 1
Side = Literal['input', 'output']
_KINDS = ('words', 'pattern', 'model', 'function')
_KEYS = ('name', *_KINDS, 'label', 'threshold', 'of', 'action')
_SIDES: dict[str, tuple[Side, ...]] = {'input': ('input',), 'output': ('output',), 'both': ('input', 'output')}
_ACTIONS = ('refuse', 'record')
_WITHOUT_BLANKS = ('CJK', 'HIRAGANA', 'KATAKANA', 'THAI', 'LAO', 'KHMER', 'MYANMAR', 'TIBETAN')


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule about texts.

    Attributes:
      name: name in messages and in the audit log.
      scorer: scores texts.
      version: hash of the rule's definition, words of files included.
      threshold: lowest score that the rule applies to.
      sides: whether it reads what a server is asked, what it writes, or both.
      refuses: whether a text that it applies to is refused; otherwise it is recorded alone.
    """

    name: str
    scorer: Scorer
    version: str
    threshold: float = 0.5
    sides: tuple[Side, ...] = ('input', 'output')
    refuses: bool = True


@dataclasses.dataclass(frozen=True)
class ContentFilter:
    """Rules and the log of what they applied to.

    Attributes:
      rules: rules in the order in which they are tried.
      log: audit log; None keeps none.
    """

    rules: Sequence[Rule] = ()
    log: AuditLog | None = None

    def reads(self, side: Side) -> bool:
        """Return whether there is a rule for a side."""
        return any(side in rule.sides for rule in self.rules)

    def refused(self, texts: Sequence[str], side: Side, **about: Any) -> list[str | None]:
        """Return the name of the first rule that refuses each text, or None; write what rules apply to to the log.

        Args:
          texts: texts.
          side: whether a server was asked them or has written them.
          **about: further fields of the log's lines.
        """
        found: list[str | None] = [None] * len(texts)
        for rule in self.rules:
            if side not in rule.sides:
                continue
            for number, score in enumerate(_scores(rule, texts)):
                if score < rule.threshold or found[number] is not None:
                    continue
                if rule.refuses:
                    found[number] = rule.name
                if self.log is not None:
                    action = 'refused' if rule.refuses else 'recorded'
                    fields = {'action': action, 'rule': rule.name, 'version': rule.version, 'score': float(score)}
                    self.log.add(texts[number], **fields, side=side, **about)
        return found


def _scores(rule: Rule, texts: Sequence[str]) -> list[float]:
    """Return the scores that a rule gives.

    Raises:
      UserError: its function, which is the user's, has failed or has returned something else.
    """
    try:
        scores = [float(score) for score in rule.scorer(texts)]
    except Exception as error:
        raise UserError(f'The rule {rule.name!r} has failed: {type(error).__name__}: {error}') from None
    if wrong := next((score for score in scores if not 0 <= score <= 1), None):
        raise UserError(f'The rule {rule.name!r} gave the score {wrong}; scores are numbers from 0 to 1.')
    return scores


def load(path: Path, classifier: Callable[[str, str | None], Scorer]) -> list[Rule]:
    """Return the rules of a JSON file.

    Args:
      path: the file.
      classifier: returns the scorer of a MODEL_DIR and the label whose probability is the score.

    Raises:
      UserError: names the rule and what is wrong with it.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror or error}.') from None
    except ValueError as error:
        raise UserError(f'{path} is not JSON: {error}.') from None
    if not isinstance(content, list) or not all(isinstance(rule, dict) for rule in content) or not content:
        raise UserError(f'{path} must hold a list of rules: [{{"name": "insults", "words": ["..."]}}, ...]')
    rules = [_rule(f'{path}, rule {number}', rule, classifier) for number, rule in enumerate(content, 1)]
    names = [rule.name for rule in rules]
    for number, rule in enumerate(rules, 1):
        with located(f'{path}, rule {number}'):
            _scores(rule, ['a text'])
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f'{path}: two rules are called {twice!r}.')
    return rules


def _rule(where: str, given: Mapping[str, Any], classifier: Callable[[str, str | None], Scorer]) -> Rule:
    """Return a rule from its JSON."""
    for key in given:
        if key not in _KEYS:
            raise UserError(f'{where} has an unknown key {key!r}.{closest(key, _KEYS)} Keys: {", ".join(_KEYS)}.')
    kinds = [kind for kind in _KINDS if kind in given]
    if len(kinds) != 1 or not isinstance(given.get('name'), str) or not given['name']:
        raise UserError(f'{where} needs a name, which is a text, and exactly one of {", ".join(_KINDS)}.')
    (kind,) = kinds
    sides, action = given.get('of', 'both'), given.get('action', 'refuse')
    for key, value, known in (('of', sides, tuple(_SIDES)), ('action', action, _ACTIONS)):
        if value not in known:
            raise UserError(f'{where}: {key} is {value!r}; it must be one of {", ".join(known)}.')
    threshold = given.get('threshold', 0.5)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold <= 1:
        raise UserError(f'{where}: threshold is {threshold!r}; it must be a number above 0 and at most 1.')
    if 'label' in given and kind != 'model':
        raise UserError(f'{where}: label belongs to a rule with a model.')
    definition = dict(given)
    if kind == 'words':
        definition['words'] = words = _words(where, given['words'])
        scorer = _of_pattern('|'.join(map(_of_word, words)), _folded)
    elif kind == 'pattern':
        scorer = _of_pattern(_checked(where, given['pattern']))
    elif kind == 'model':
        with located(where):
            scorer = classifier(str(given['model']), given.get('label'))
    else:
        scorer = _function(where, str(given['function']))
    version = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:12]
    return Rule(given['name'], scorer, version, float(threshold), _SIDES[sides], action == 'refuse')


def _words(where: str, given: Any) -> list[str]:
    """Return a list of words, or those of a file with a word or phrase per line."""
    if isinstance(given, str):
        try:
            given = [line.strip() for line in Path(given).read_text(encoding='utf-8').splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            advice = f'For one word write ["{given}"].'
            raise UserError(f'{where}: the file of words {given} cannot be read: {error}. {advice}') from None
    if not isinstance(given, list) or not given or not all(isinstance(word, str) and word.strip() for word in given):
        raise UserError(f'{where}: words must be a list of words, or a file with a word or phrase per line.')
    return given


def _of_word(word: str) -> str:
    """Return the pattern of a whole word or phrase; in scripts that are written without blanks, of its characters."""
    parts = _folded(word).split()
    before, after = (r'\b' if _has_ends(edge) else '' for edge in (parts[0][0], parts[-1][-1]))
    return before + r'\s+'.join(map(re.escape, parts)) + after


def _has_ends(edge: str) -> bool:
    """Return whether words that begin or end with a character are set apart from others by blanks."""
    return edge.isalnum() and not unicodedata.name(edge, '').startswith(_WITHOUT_BLANKS)


def _folded(text: str) -> str:
    """Return a text as words are compared: without case, width and kinds of apostrophes."""
    return unicodedata.normalize('NFKC', text).casefold().replace('’', "'")


def _checked(where: str, pattern: Any) -> str:
    if not pattern:
        raise UserError(f'{where}: the pattern is empty, and would match every text.')
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UserError(f'{where}: the pattern {pattern!r} is not a regular expression: {error}.') from None
    return pattern


def _of_pattern(pattern: str, folded: Callable[[str], str] = str) -> Scorer:
    """Return a scorer that is 1 where a text, folded, holds what a pattern matches, whatever its case."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda texts: [float(compiled.search(folded(text)) is not None) for text in texts]


def _function(where: str, name: str) -> Scorer:
    """Return a scorer that calls `module:function` with every text."""
    module, _, function = name.partition(':')
    try:
        score = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f'{where}: the function {name!r} (module:function) cannot be imported: {error}.') from None
    return lambda texts: [score(text) for text in texts]
