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

from palm_jax.errors import UserError, closest
from palm_jax.monitoring.audit_log import AuditLog

Scorer: TypeAlias = Callable[[Sequence[str]], Sequence[float]]  # texts to a score of each, from 0 to 1
Side = Literal['input', 'output']
_KINDS = ('words', 'pattern', 'model', 'function')
_KEYS = ('name', *_KINDS, 'label', 'threshold', 'of', 'action')
_SIDES: dict[str, tuple[Side, ...]] = {'input': ('input',), 'output': ('output',), 'both': ('input', 'output')}
_ACTIONS = ('refuse', 'record')


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
            for number, score in enumerate(rule.scorer(texts)):
                if score < rule.threshold or found[number] is not None:
                    continue
                if rule.refuses:
                    found[number] = rule.name
                if self.log is not None:
                    action = 'refused' if rule.refuses else 'recorded'
                    fields = {'action': action, 'rule': rule.name, 'version': rule.version, 'score': float(score)}
                    self.log.add(texts[number], **fields, side=side, **about)
        return found


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
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f'{path}: two rules are called {twice!r}.')
    return rules


def _rule(where: str, given: Mapping[str, Any], classifier: Callable[[str, str | None], Scorer]) -> Rule:
    """Return a rule from its JSON."""
    for key in given:
        if key not in _KEYS:
            raise UserError(f'{where} has an unknown key {key!r}.{closest(key, _KEYS)} Keys: {", ".join(_KEYS)}.')
    kinds = [kind for kind in _KINDS if kind in given]
    if len(kinds) != 1 or not isinstance(given.get('name'), str):
        raise UserError(f'{where} needs a name and one of {", ".join(_KINDS)}.')
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
        scorer = _of_pattern('|'.join(map(_of_word, words)))
    elif kind == 'pattern':
        scorer = _of_pattern(_checked(where, given['pattern']))
    elif kind == 'model':
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
            raise UserError(f'{where}: the file of words {given} cannot be read: {error}.') from None
    if not isinstance(given, list) or not given or not all(isinstance(word, str) and word.strip() for word in given):
        raise UserError(f'{where}: words must be a list of words, or a file with a word or phrase per line.')
    return given


def _of_word(word: str) -> str:
    """Return the pattern of a whole word or phrase; in scripts that are written without blanks, of its characters."""
    word = _folded(word)
    before, after = (('' if unicodedata.east_asian_width(edge) in 'WF' else r'\b') for edge in (word[0], word[-1]))
    return rf'{before if word[0].isalnum() else ""}{re.escape(word)}{after if word[-1].isalnum() else ""}'


def _folded(text: str) -> str:
    return unicodedata.normalize('NFKC', text)


def _checked(where: str, pattern: Any) -> str:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise UserError(f'{where}: the pattern {pattern!r} is not a regular expression: {error}.') from None
    return pattern


def _of_pattern(pattern: str) -> Scorer:
    """Return a scorer that is 1 where a text, NFKC-normalized, holds what a pattern matches, whatever its case."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda texts: [float(compiled.search(_folded(text)) is not None) for text in texts]


def _function(where: str, name: str) -> Scorer:
    """Return a scorer that calls `module:function` with every text."""
    module, _, function = name.partition(':')
    try:
        score = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f'{where}: the function {name!r} (module:function) cannot be imported: {error}.') from None
    return lambda texts: [float(score(text)) for text in texts]
