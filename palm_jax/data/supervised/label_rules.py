"""Rules about labels, from files and from Python, as features of training examples."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from palm_jax.bounds import checked
from palm_jax.data.readers.files import check_text, glob_files
from palm_jax.data.supervised.examples import Batch
from palm_jax.data.supervised.labelled_text import LabelledText
from palm_jax.data.supervised.tagged_text import TaggedText
from palm_jax.errors import UserError
from palm_jax.labels import rule_text, rules
from palm_jax.labels.rules import Labels, Rule
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)
_TEXT_PARTS = ('function', 'weight', 'labels')
_PAIR_PARTS = ('function', 'weight')


@dataclasses.dataclass(frozen=True)
class RuleViews:
    """What rules see of examples.

    Attributes:
      texts: text of every example; of a pair, both on two lines.
      words: words of every example that are tagged; None where texts are labelled.
      labels: labels of every example, or the tags of its words.
    """

    texts: Sequence[str]
    words: Sequence[Sequence[str]] | None
    labels: Sequence[Sequence[str]]


@checked
class WithRules:
    """The batches of a task with a head, with rules about the labels; implements `interfaces.Data`.

    Training batches have what the rules say about each row as further features, see `training.rule_inference`. The
    held-out part and everything else is that of the task.

    Args:
      data: data of the task: classes, label sets or tags.
      files: path or glob of rules in their text form, see `labels.rule_text`; None for none.
      functions: rules written in Python: functions of a text and a label (of a word and its tag for a tagger), alone or
        with the further arguments of `labels.rules.TextFunction`: (function, weight, labels).
      transitions: functions of the tag before and a tag, alone or as (function, weight), see
        `labels.rules.TransitionFunction`.

    Attributes:
      is_innermost: whether no other wrapper may be between it and the data of the task.
    """

    is_innermost = True

    def __init__(
        self,
        data: Any,
        files: str | None = None,
        functions: Sequence[Callable[[str, Any], float] | tuple[Any, ...]] = (),
        transitions: Sequence[Callable[[str, str], float] | tuple[Any, ...]] = (),
    ):
        self._task, self._files, self._functions, self._transitions = data, files, tuple(functions), tuple(transitions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_'):
            raise AttributeError(name)
        return getattr(self._data, name)

    @functools.cached_property
    def rules(self) -> list[Rule]:
        """All rules.

        Raises:
          UserError: a line is not a rule, or a rule does not fit the task.
        """
        self._check_task()
        found = _read(self._files)
        found += [rules.TextFunction(*_parts(f, 'RULES', _TEXT_PARTS)) for f in self._functions]
        found += [rules.TransitionFunction(*_parts(f, 'TRANSITION_RULES', _PAIR_PARTS)) for f in self._transitions]
        if not found:
            raise UserError('There are no rules: name a file, --gin.RULE_FILES=rules.txt, or functions in RULES.')
        for rule in found:
            rule.check(self._task.labels, self.is_tagger, self.is_exclusive)
        return found

    @property
    def is_tagger(self) -> bool:
        """Whether rules are about the tags of words."""
        return isinstance(self._task, TaggedText)

    @property
    def is_exclusive(self) -> bool:
        """Whether a text or word has one label."""
        return self.is_tagger or self._task.table.kind.is_exclusive

    @functools.cached_property
    def states(self) -> tuple[list[Labels], list[int]]:
        """States of an example's labels, and the ids of the labels they consist of; see `rules.states_of`."""
        return rules.states_of(self.rules, self._task.labels, self.is_exclusive)

    @functools.cached_property
    def transitions(self) -> np.ndarray:
        """Penalties of each tag after another one, float32 [C + 1, C]."""
        return rules.transition_penalties(self.rules, self._task.labels)

    def batch(self, first: int, size: int) -> Batch:
        """Return the rows first, first + 1, ..., with what the rules say about them."""
        return self._data.batch(first, size) | self._shared(size)

    def blank(self) -> Batch:
        """Return an example, for the names, shapes and types of the features."""
        return self._data.blank() | {name: values[0] for name, values in self._shared(1).items()}

    def identity(self) -> dict[str, dict[str, Any]]:
        """Return the identity of the task's data, with that of rules about tags in the training part's."""
        found = self._data.identity()
        if not self.is_tagger:
            return found
        digest = hashlib.sha256(found['train']['sha256'].encode() + self.transitions.tobytes())
        return found | {'train': found['train'] | {'sha256': digest.hexdigest()}}

    def describe(self) -> str:
        """Return both parts in numbers, and how many labels of the training part break the rules."""
        described = self._data.describe()
        view = self.views(self._task.examples('train'))
        applied, is_broken = self.judge(view)
        for rule, rows in zip(self.rules, applied.T, strict=True):
            if not rows.any():
                _LOGGER.warning(f'the rule `{rule.name}` applies to no training text')
        self._warn_of_contradictions(view)
        number, size = int(is_broken.any(axis=1).sum()), len(view.texts)
        return (
            f'{described}\nrules      {counted(len(self.rules), "rule")}; the labels of {number:,} of {size:,} '
            f'training texts ({number / size:.1%}) break one'
        )

    def views(self, examples: Sequence[Any]) -> RuleViews:
        """Return what rules see of examples: of tagged sentences the words that fit into L tokens."""
        texts = ['\n'.join(self._task.texts(example)) for example in examples]
        if not self.is_tagger:
            return RuleViews(texts, None, [self._task.classes(example) for example in examples])
        counts = [len(ends) for ends in self._task.inputs([example.words for example in examples])[1]]
        pairs = list(zip(examples, counts, strict=True))
        return RuleViews(texts, [e.words[:n] for e, n in pairs], [e.tags[:n] for e, n in pairs])

    def judge(self, views: RuleViews, labels: Sequence[Sequence[str]] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return which rules apply to examples, and which their labels break, boolean [E, R] each.

        Args:
          views: examples.
          labels: labels of every example, or tags of its words; None takes those of the examples.
        """
        applied = np.zeros((len(views.texts), len(self.rules)), bool)
        is_broken = np.zeros_like(applied)
        for row, of_row in enumerate(views.labels if labels is None else labels):
            words = None if views.words is None else views.words[row]
            for number, rule in enumerate(self.rules):
                judged = self._judge(rule, views.texts[row], words, of_row)
                applied[row, number], is_broken[row, number] = judged
        return applied, is_broken

    def features(self, examples: Sequence[Any], table: Any = None) -> Batch:
        """Return the features of examples that rules say different things about, see `training.rule_inference`.

        Args:
          examples: examples of the task.
          table: not used; see `LabelledText.further`.
        """
        del table
        views, (states, ids) = self.views(examples), self.states
        if views.words is None:
            found = {'rule_penalties': rules.penalties(self.rules, [(text, None) for text in views.texts], states)}
            if not self.is_exclusive:
                found['rule_labels'] = np.tile(np.array(ids, np.int32), (len(examples), 1))
            return found
        _, ends = self._task.inputs([example.words for example in examples])
        is_word = np.zeros((len(examples), self._task.length), np.int32)
        of_words = np.zeros((*is_word.shape, len(self._task.labels)), np.float32)
        for row, (positions, words, text) in enumerate(zip(ends, views.words, views.texts, strict=True)):
            is_word[row, positions] = 1
            of_words[row, positions] = rules.penalties(self.rules, [(text, word) for word in words], states)
        return {'rule_words': is_word} | ({'rule_penalties': of_words} if self._has_rules_of_words else {})

    @property
    def _has_rules_of_words(self) -> bool:
        return any(isinstance(rule, rules.TextRule) for rule in self.rules)

    @functools.cached_property
    def _data(self) -> Any:
        self._check_task()
        return self._task.with_further(self)

    def _shared(self, size: int) -> Batch:
        """Features that all rows have in common."""
        if not self.is_tagger:
            return {}
        return {'rule_transitions': np.tile(self.transitions, (size, 1, 1))}

    def _judge(self, rule: Rule, text: str, words: Sequence[str] | None, labels: Sequence[str]) -> tuple[bool, bool]:
        """Return whether a rule applies to an example, and whether the labels break it."""
        if words is None:
            if not isinstance(rule, rules.TextRule) or not rule.applies(text, None):
                return False, False
            return True, bool(rule.truth(text, None, [frozenset(labels)])[0] < 1)
        if isinstance(rule, rules.TextRule):
            chosen = [i for i, word in enumerate(words) if rule.applies(text, word)]
            return bool(chosen), any(rule.truth(text, words[i], [frozenset([labels[i]])])[0] < 1 for i in chosen)
        assert isinstance(rule, rules.TransitionRule)
        pairs = zip((rules.START, *labels), labels, strict=False)
        return bool(labels), any(rule.truth(before, tag, self._task.labels) < 1 for before, tag in pairs)

    def _warn_of_contradictions(self, views: RuleViews) -> None:
        """Warn of texts of which all labels break a rule, so that the probability of keeping the rules is 0."""
        number, size = sum(not self._can_be_kept(views, row) for row in range(len(views.texts))), len(views.texts)
        if number:
            what = 'tags keep' if self.is_tagger else 'label keeps'
            _LOGGER.warning(
                f'no {what} the rules in {number:,} of {size:,} training texts; the semantic loss adds nothing there'
            )

    def _can_be_kept(self, views: RuleViews, row: int) -> bool:
        """Return whether some labels of an example, or tags of its words, keep all rules."""
        text, states = views.texts[row], self.states[0]
        if views.words is None:
            return bool((rules.penalties(self.rules, [(text, None)], states) == 0).any())
        keeps = rules.penalties(self.rules, [(text, word) for word in views.words[row]], states) == 0
        may_follow = self.transitions == 0
        before = np.arange(len(may_follow)) == len(may_follow) - 1  # the last row is that of the beginning
        for kept in keeps:
            reached = may_follow[before].any(axis=0) & kept
            before = np.append(reached, False)
        return bool(before.any())

    def _check_task(self) -> None:
        """Refuse a task without labels, or with scores other than the logarithms of probabilities."""
        data = self._task
        if isinstance(data, LabelledText):
            kind = data.table.kind
            if kind.has_classes and kind.num_scores(3) == 3:
                return
            raise UserError(
                f'Rules are about classes, label sets and tags, and the labels of this task are {type(kind).__name__}: '
                'leave the rules out.'
            )
        if not isinstance(data, TaggedText):
            raise UserError(
                'Rules are about labels, and this run predicts none: add gin/heads/classification.gin, multilabel.gin '
                'or tagging.gin.'
            )


def _read(pattern: str | None) -> list[Rule]:
    """Return the rules of files."""
    found: list[Rule] = []
    for file in glob_files(pattern, 'RULE_FILES') if pattern is not None else ():
        for number, line in file.lines():
            location = f'{file.name}, line {number}'
            line = rule_text.without_comment(check_text(line, location, file)).strip()
            if line:
                found.append(rule_text.parse(line, location))
    if pattern is not None and not found:
        raise UserError(f'RULE_FILES: {pattern} has no rules: no line has more than a comment.')
    return found


def _parts(value: Any, macro: str, names: Sequence[str]) -> tuple[Any, ...]:
    """Return the arguments of a rule in Python: a function, or a tuple or list of it and what follows."""
    parts = tuple(value) if isinstance(value, tuple | list) else (value,)
    form = f'({", ".join(names)})'
    shown = f'({", ".join(getattr(part, "__qualname__", repr(part)) for part in parts)})'
    if not isinstance(value, tuple | list) and not callable(value):
        raise UserError(f'{macro}: {value!r} is not a function; {macro} is a list of functions or of {form}.')
    if not parts or not callable(parts[0]):
        raise UserError(f'{macro}: {shown}: the function comes first: {form}.')
    if len(parts) > len(names):
        raise UserError(f'{macro}: {shown} has {len(parts)} parts; it may have {len(names)}: {form}.')
    weight = parts[1] if len(parts) > 1 else 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float('inf'):
        raise UserError(f'{macro}: {shown}: the weight is {weight!r}; it must be a number above 0: {form}.')
    labels = parts[2] if len(parts) > 2 else None
    is_list = isinstance(labels, list | tuple) and all(isinstance(label, str) for label in labels)
    if labels is not None and not is_list:
        raise UserError(f'{macro}: {shown}: the labels are {labels!r}; they must be a list of texts: {form}.')
    return parts
