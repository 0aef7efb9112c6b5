"""Probes of a model: what changes of the text cost, and tests of behaviour that a user writes (CheckList).

CheckList (Ribeiro et al. 2020, arXiv 2005.04118) has three kinds of test: invariance (a change must not change the
prediction), direction (it must move the prediction one way) and minimum functionality (a simple text must get the
right label).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from palm_jax.errors import UserError, closest, located
from palm_jax.labels import scoring
from palm_jax.metrics.comparison import ACCURACY, Comparison, compare, compare_apart
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.probing import answers
from palm_jax.probing.answers import Answers, Case
from palm_jax.probing.perturbations import PERTURBATIONS, Perturbation
from palm_jax.wording import counted

_SHOWN = 5  # examples of a flip
_LOGGER = logging.getLogger(__name__)
EXPECTATIONS = ('same', 'different', 'up', 'down')


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one change of the texts does, or what other texts do.

    Attributes:
      name: name of the change, or of the table of other texts.
      expectation: `same` or `any`, see `Perturbation`; of a table `same` if it is a rewriting of the held-out part.
      changed: number of cases whose text it changes, the others are left out; number of other texts.
      cases: number of all cases of the held-out part.
      metric: name of the mean score.
      before: mean score of the unchanged texts.
      after: mean score of the changed ones.
      flips: share of the answers that change; None for texts that are not a rewriting of the held-out ones.
      p_value: p-value of `test`; None where no text was changed.
      test: McNemar's exact test of the scores, or the paired permutation test where they are not right or wrong; of
        texts that are not a rewriting of the held-out ones Fisher's exact test, or the permutation test. Empty where no
        text was changed.
      interval: 95% interval of after − before, of the scores; None for a single text.
      examples: flips as {'text', 'changed', 'before', 'after'}.
    """

    name: str
    expectation: str
    changed: int
    cases: int
    metric: str = ACCURACY
    before: float = 0.0
    after: float = 0.0
    flips: float | None = 0.0
    p_value: float | None = None
    test: str = ''
    interval: tuple[float, float] | None = None
    examples: tuple[dict[str, Any], ...] = ()

    @property
    def drop(self) -> float:
        """How much worse the changed texts are answered."""
        return self.before - self.after if self.metric != 'mean absolute error' else self.after - self.before

    @property
    def drop_interval(self) -> tuple[float, float] | None:
        """95% interval of the drop; None for a single text."""
        return None if self.interval is None else (-self.interval[1], -self.interval[0])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of the tests of one name.

    Attributes:
      name: name of the tests.
      count: number of tests.
      failures: what failed, as {'text', 'changed', 'expected', 'found'}.
    """

    name: str
    count: int
    failures: tuple[dict[str, Any], ...]


def perturbations_of(names: Sequence[str]) -> list[Perturbation]:
    """Return perturbations by name.

    Raises:
      UserError: there is none of that name.
    """
    for name in names:
        if name not in PERTURBATIONS:
            raise UserError(
                f'There is no probe {name!r}.{closest(name, PERTURBATIONS)} Probes: {", ".join(PERTURBATIONS)}.'
            )
    return [PERTURBATIONS[name] for name in names]


def probe(
    model: Any,
    cases: Sequence[Case],
    perturbations: Sequence[Perturbation],
    seed: int = 0,
    batch_size: int = 32,
    before: Answers | None = None,
) -> list[Finding]:
    """Return what each change of the texts does to a model.

    Args:
      model: trained model, an `api.TrainedModel`.
      cases: held-out examples, see `answers.cases`.
      perturbations: changes; those that break words apart are left out for a tagger.
      seed: seed of the changes.
      batch_size: texts per forward pass.
      before: answers to the unchanged texts; None asks the model.
    """
    if answers.changes_words_alone(model):
        perturbations = [p for p in perturbations if p.keeps_words]
    if not perturbations:
        return []
    before = before or answers.answers(model, cases, batch_size)
    findings = []
    for perturbation in tqdm(perturbations, desc='probes', unit=' probes', leave=False):
        changed = [
            dataclasses.replace(case, texts=tuple(perturbation(text, seed) for text in case.texts)) for case in cases
        ]
        rows = [i for i, case in enumerate(cases) if changed[i].texts != case.texts]
        about = Finding(perturbation.name, perturbation.expectation, len(rows), len(cases), before.metric)
        if not rows:
            findings.append(about)
            continue
        after = answers.answers(model, [changed[i] for i in rows], batch_size)
        findings.append(_in_pairs(about, [cases[i] for i in rows], before.of(rows), [changed[i] for i in rows], after))
    return findings


def probe_table(
    model: Any,
    held_out: Sequence[Case],
    other: Sequence[Case],
    name: str,
    most: int,
    batch_size: int = 32,
    before: Answers | None = None,
    has_pairs: bool | None = None,
) -> Finding:
    """Return how a model answers other texts than the held-out ones: those of another domain, or in another language.

    Rewritings of the held-out texts are compared with them in pairs, others apart.

    Args:
      model: trained model, an `api.TrainedModel`.
      held_out: all held-out examples, see `answers.cases`.
      other: other texts with their labels, see `answers.cases_of_files`.
      name: what they are called.
      most: most examples of either, see `answers.spread`.
      batch_size: texts per forward pass.
      before: answers to those of the held-out examples; None asks the model.
      has_pairs: whether each text is another form of the held-out text of the same number, such as its translation, see
        `check_rewriting`; None takes them for it if they are as many with the same labels in the same order.
    """
    if has_pairs is None:
        has_pairs = _is_rewriting(model, held_out, other, name)
    cases, texts = answers.spread(held_out, most), answers.spread(other, most)
    before = before or answers.answers(model, cases, batch_size)
    after = answers.answers(model, texts, batch_size)
    about = Finding(name, 'same' if has_pairs else 'any', len(texts), len(cases), before.metric)
    if has_pairs:
        return _in_pairs(about, cases, before, texts, after)
    return _with(about, compare_apart(before.scores, after.scores, _kind_of(before.metric)), None)


def check_rewriting(model: Any, held_out: Sequence[Case], other: Sequence[Case], where: str) -> None:
    """Refuse texts that are not the held-out ones in another form, with their labels in their order.

    Raises:
      UserError: there are more or fewer, or a label differs.
    """
    if len(other) != len(held_out):
        raise UserError(
            f'{where} has {counted(len(other), "row")}, and the held-out part {len(held_out):,}: each must be a '
            'rewriting of the held-out one of the same number. Other texts are compared with --table.'
        )
    for number, (first, second) in enumerate(zip(held_out, other, strict=True), 1):
        if not answers.same_label(model, first, second):
            raise UserError(
                f'{where}, row {number}: the label is {second.label!r}, and that of the held-out text '
                f'{" / ".join(first.texts)!r} is {first.label!r}. Bring the rows into the order of the held-out part.'
            )


def _is_rewriting(model: Any, held_out: Sequence[Case], other: Sequence[Case], name: str) -> bool:
    """Return whether texts have as many rows as the held-out part, with the same labels in the same order.

    Where rows are sorted by label, the order does not show that they belong together: any table with as many rows of
    each label has it.
    """
    if len(held_out) != len(other) or not all(map(functools.partial(answers.same_label, model), held_out, other)):
        return False
    blocks = [label for label, _ in itertools.groupby(repr(case.label) for case in held_out)]
    if len(blocks) > len(set(blocks)) or 2 * len(blocks) > len(held_out):
        return True
    _LOGGER.warning(
        f'{name} has the labels of the held-out rows in their order, but both are sorted by label, as any two tables '
        'may be: they are compared apart, without flips. If its rows are rewritings of the held-out ones, name it with '
        '--rewriting instead of --table.'
    )
    return False


def _in_pairs(
    about: Finding, cases: Sequence[Case], before: Answers, changed: Sequence[Case], after: Answers
) -> Finding:
    """Return a finding with the comparison of the answers to cases with those to their changed texts."""
    compared = compare(before.scores, after.scores, _kind_of(before.metric))
    flips = [i for i in range(len(cases)) if not _same(before.values[i], after.values[i], before.mean_error)]
    examples = [
        {
            'text': list(cases[i].texts),
            'changed': list(changed[i].texts),
            'before': before.values[i],
            'after': after.values[i],
        }
        for i in flips[:_SHOWN]
    ]
    return _with(about, compared, len(flips) / len(cases), examples)


def _with(
    about: Finding, compared: Comparison, flips: float | None, examples: Sequence[dict[str, Any]] = ()
) -> Finding:
    return dataclasses.replace(
        about,
        before=abs(float(compared.first.mean())),
        after=abs(float(compared.second.mean())),
        flips=flips,
        p_value=compared.p_value,
        test=compared.test,
        interval=compared.interval,
        examples=tuple(examples),
    )


def _kind_of(metric: str) -> str:
    """Return the metric for `compare`, which tests scores of 0 and 1 by McNemar."""
    return metric if metric == 'mean absolute error' else ACCURACY


def _same(before: Any, after: Any, mean_error: float) -> bool:
    """Return whether two answers are the same; numbers are if they differ by less than the model errs on average."""
    return abs(before - after) <= mean_error if isinstance(before, float) else before == after


def run_tests(model: Any, rows: Sequence[Mapping[str, Any]], batch_size: int = 32) -> list[Outcome]:
    """Return the results of tests that a user wrote, by name.

    Args:
      model: model that labels texts.
      rows: `text` (and `second_text`) with either `label`, the right label: minimum functionality; or with `changed`
        (and `changed_second_text`) and `expect`: `same` (the default), `different`, or `up` or `down` for the
        probability of `label`, or for the number. `name` groups the tests.
      batch_size: texts per forward pass.

    Raises:
      UserError: the model does not label texts, or a row is not a test.
    """
    if not isinstance(model.predictor, LabelPredictor):
        raise UserError(f'--tests are for models that label texts; this one was trained {model.predictor.purpose}.')
    for number, row in enumerate(rows, 1):
        _check(model, row, number)
    first = model.predict([_input(row, 'text') for row in rows], batch_size=batch_size) if rows else []
    pairs = [i for i, row in enumerate(rows) if row.get('changed')]
    changed = model.predict([_input(rows[i], 'changed') for i in pairs], batch_size=batch_size) if pairs else []
    second = dict(zip(pairs, changed, strict=True))
    by_name: dict[str, list[dict[str, Any] | None]] = collections.defaultdict(list)
    for i, row in enumerate(rows):
        failure = _failure(model, row, first[i], second.get(i))
        by_name[str(row.get('name') or 'tests')].append(failure)
    return [Outcome(name, len(found), tuple(f for f in found if f)) for name, found in by_name.items()]


def _check(model: Any, row: Mapping[str, Any], number: int) -> None:
    names, expect, label = model.data.labels, row.get('expect') or 'same', row.get('label')
    if not row.get('text'):
        raise UserError(f'Test {number} has no text.')
    if expect not in EXPECTATIONS:
        raise UserError(
            f'Test {number} expects {expect!r}.{closest(expect, EXPECTATIONS)} It may expect {EXPECTATIONS}.'
        )
    if not row.get('changed') and label in (None, ''):
        raise UserError(f'Test {number} has neither a label nor a changed text, so there is nothing to test.')
    if expect in ('up', 'down') and names and label not in names:
        raise UserError(f'Test {number} expects {expect!r} of the label {label!r}.{closest(str(label), names)}')
    if label not in (None, '') and not (names and label in names):
        with located(f'Test {number}'):
            model.predictor.check_label(model, label)
    if bool(row.get('second_text')) != model.predictor.reads_pairs(model):
        has, needs = (
            ('no second_text', 'pairs of texts') if not row.get('second_text') else ('a second_text', 'single texts')
        )
        raise UserError(f'Test {number} has {has}, and this model reads {needs}.')


def _input(row: Mapping[str, Any], name: str) -> Any:
    second = row.get('second_text' if name == 'text' else 'changed_second_text') or row.get('second_text')
    return row[name] if not second else (row[name], second)


def _failure(model: Any, row: Mapping[str, Any], first: Any, second: Any) -> dict[str, Any] | None:
    """Return what is wrong with an answer, or None."""
    to_json, kind, label = model.predictor.to_json, model.data.table.kind, row.get('label')
    about = {'text': row['text'], 'changed': row.get('changed')}
    found = to_json(first)['predicted']
    if second is None:
        right = scoring.score(kind, found, label)
        is_right = right == 1 if kind.has_classes else abs(right) <= float(row.get('tolerance') or 0.5)
        return None if is_right else about | {'expected': label, 'found': found}
    after, expect = to_json(second)['predicted'], row.get('expect') or 'same'
    if expect in ('up', 'down'):
        values = [p if not kind.has_classes else to_json(p)['probabilities'][label] for p in (first, second)]
        passed = (values[1] - values[0]) * (1 if expect == 'up' else -1) > 0
        return None if passed else about | {'expected': expect, 'found': values}
    if kind.has_classes:
        is_same = scoring.score(kind, found, after) == 1
    else:
        is_same = abs(found - after) <= float(row.get('tolerance') or 0.5)
    return None if is_same == (expect == 'same') else about | {'expected': expect, 'found': [found, after]}
