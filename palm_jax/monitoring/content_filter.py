"""Rules about texts that a server is asked and writes, and that are trained on: words, patterns, scores of models.

    [
      {"name": "insults", "words": ["idiot"], "of": "both", "action": "refuse"},
      {"name": "card numbers", "pattern": "\\\\b(?:\\\\d[ -]?){15}\\\\d\\\\b", "of": "input", "action": "refuse"},
      {"name": "toxic", "model": "runs/toxicity", "label": "toxic", "threshold": 0.8, "of": "output"},
      {"name": "mine", "function": "my_scorers:toxicity", "threshold": 0.5, "action": "record"},
      {"name": "theirs", "url": "https://api.openai.com/v1/moderations", "key_variable": "OPENAI_API_KEY"}
    ]

A rule scores a text between 0 and 1 and applies from its threshold on. Every text that a rule applies to is a line of
the audit log, with the rule, its version, the score, and the hash of the text.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from palm_jax.errors import UserError, closest, located
from palm_jax.monitoring import scorers
from palm_jax.monitoring.audit_log import AuditLog
from palm_jax.monitoring.scorers import Scorer

Side = Literal['input', 'output', 'data']
_KINDS = ('words', 'pattern', 'model', 'function', 'url')
_KEYS = ('name', *_KINDS, 'label', 'key_variable', 'seconds', 'threshold', 'of', 'action')
_SIDES: dict[str, tuple[Side, ...]] = {'input': ('input',), 'output': ('output',), 'both': ('input', 'output')}
_ACTIONS = ('refuse', 'record')
_DONE: dict[Side, str] = {'input': 'refused', 'output': 'refused', 'data': 'removed'}  # in the audit log
_SECONDS = 30.0  # for a service to answer


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule about texts.

    Attributes:
      name: name in messages and in the audit log.
      scorer: scores texts.
      version: hash of the rule's definition, words of files included.
      threshold: lowest score that the rule applies to.
      sides: whether it reads what a server is asked, what it writes, or both; data is read by every rule.
      refuses: whether a text that it applies to is refused; otherwise it is recorded alone.
    """

    name: str
    scorer: Scorer
    version: str
    threshold: float = 0.5
    sides: tuple[Side, ...] = ('input', 'output')
    refuses: bool = True

    def reads(self, side: Side) -> bool:
        """Return whether the rule reads texts of a side."""
        return side == 'data' or side in self.sides

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Return the scores of texts, from 0 to 1.

        Raises:
          UserError: the scorer, which is the user's, has failed or has returned something else.
        """
        try:
            found = [float(score) for score in self.scorer(texts)]
        except UserError as error:
            raise UserError(f'The rule {self.name!r} has failed: {error}') from None
        except Exception as error:
            raise UserError(f'The rule {self.name!r} has failed: {type(error).__name__}: {error}') from None
        if wrong := next((score for score in found if not 0 <= score <= 1), None):
            raise UserError(f'The rule {self.name!r} gave the score {wrong}; scores are numbers from 0 to 1.')
        return found


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
        return any(rule.reads(side) for rule in self.rules)

    def refused(
        self, texts: Sequence[str], side: Side, each: Sequence[Mapping[str, Any]] = (), **about: Any
    ) -> list[str | None]:
        """Return the name of the first rule that refuses each text, or None; write what rules apply to to the log.

        Args:
          texts: texts.
          side: whether a server was asked them, has written them, or they are data to train on.
          each: further fields of the log's line about each text; empty for none.
          **about: further fields of the log's lines.
        """
        found: list[str | None] = [None] * len(texts)
        for rule in self.rules:
            if not rule.reads(side):
                continue
            for number, score in enumerate(rule.scores(texts)):
                if score < rule.threshold or found[number] is not None:
                    continue
                if rule.refuses:
                    found[number] = rule.name
                action = _DONE[side] if rule.refuses else 'recorded'
                self.note(rule, texts[number], score, action, side=side, **about, **(each[number] if each else {}))
        return found

    def note(self, rule: Rule, text: str, score: float, action: str, **about: Any) -> None:
        """Write to the log that a rule applies to a text; nothing without a log.

        Args:
          rule: rule.
          text: text, of which the log has the hash.
          score: score of the rule.
          action: what was done: `refused`, `removed` or `recorded`.
          **about: further fields of the line.
        """
        if self.log is not None:
            self.log.add(text, action=action, rule=rule.name, version=rule.version, score=score, **about)


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
            rule.scores(['a text'])
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
    if 'label' in given and kind not in ('model', 'url'):
        raise UserError(f'{where}: label belongs to a rule with a model or a url.')
    if kind != 'url' and (misplaced := [key for key in ('key_variable', 'seconds') if key in given]):
        raise UserError(f'{where}: {misplaced[0]} belongs to a rule with a url.')
    definition = dict(given)
    if kind == 'words':
        definition['words'] = words = scorers.word_list(where, given['words'])
        scorer = scorers.of_words(words)
    elif kind == 'pattern':
        scorer = scorers.of_pattern(scorers.checked_pattern(where, given['pattern']))
    elif kind == 'model':
        with located(where):
            scorer = classifier(str(given['model']), given.get('label'))
    elif kind == 'url':
        scorer = scorers.of_endpoint(
            where, given['url'], given.get('label'), given.get('key_variable'), _wait(where, given)
        )
    else:
        scorer = scorers.of_function(where, str(given['function']))
    version = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:12]
    return Rule(given['name'], scorer, version, float(threshold), _SIDES[sides], action == 'refuse')


def _wait(where: str, given: Mapping[str, Any]) -> float:
    """Return how long a service may take."""
    seconds = given.get('seconds', _SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 3600:
        raise UserError(f'{where}: seconds is {seconds!r}; it must be a number above 0 and at most 3600.')
    return float(seconds)
