"""How many predictions break rules about labels: of the model, with the rules applied, and the true labels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import numpy as np
from scipy.special import log_expit, log_softmax

from palm_jax.bounds import Above, checked
from palm_jax.reports.extended import ExtendedReporter
from palm_jax.reports.report import Measurements, RunReport
from palm_jax.run_directory import RunDirectory
from palm_jax.training.result import EvaluationInput, TrainingResult
from palm_jax.training.writers import read_jsonl

_TRAINED = 'train/rule_violations'
_SHARES = ('rule_violations', 'rule_violations_projected', 'rule_violations_labels')


@checked
@dataclasses.dataclass(frozen=True)
class RuleReporter(ExtendedReporter):
    """The report of a task, with the share of held-out examples whose labels break a rule.

    Of the labels there are three: `rule_violations` is that of the model's predictions; `rule_violations_projected`
    that of the likeliest labels under q(y) ∝ p(y)·exp(−C·penalty), the model with the rules applied; and
    `rule_violations_labels` that of the true labels, which says how right the rules are.

    Attributes:
      reporter: reporter of the task.
      strength: strength C of the rules.
    """

    strength: Annotated[float, Above(0)] = 6.0

    def metric_names(self, data: Any) -> Collection[str] | None:
        """Return the names of the task's metrics and of the shares."""
        names = self.reporter.metric_names(data)
        return None if names is None else [*names, *_SHARES]

    def __call__(self, result: TrainingResult) -> RunReport:
        """Measure the model of a finished run, beside what its training has logged first and last."""
        measured = self.measure(result.inputs)
        logged = read_jsonl(RunDirectory.of_checkpoint(result.checkpoint).metrics)
        trained = [(record['step'], record[_TRAINED]) for record in logged if _TRAINED in record]
        if not trained:
            return RunReport(result, measured)
        (first, before), (last, after) = trained[0], trained[-1]
        line = (
            f'{"rules, training":<16} broken by {before:.1%} of the predictions up to step {first:,}, '
            f'{after:.1%} up to {last:,}'
        )
        details = {'rule_violations_in_training': {'before': before, 'after': after}}
        return RunReport(
            result,
            dataclasses.replace(measured, details={**measured.details, **details}, lines=[*measured.lines, line]),
        )

    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Measure the task, and which rules the labels break."""
        inputs = dataclasses.replace(inputs, score=functools.cache(inputs.score))
        measured, data = self.reporter.measure(inputs), inputs.data
        scores = [np.asarray(row, np.float64) for row in inputs.score().scores]
        views = data.views(data.validation_examples)
        applied, of_labels = data.judge(views)
        predicted = dict(zip(('model', 'projected'), _predictions(data, scores, self.strength), strict=True))
        broken = {name: data.judge(views, labels)[1] for name, labels in predicted.items()} | {'labels': of_labels}
        shares = {
            metric: float(broken[name].any(axis=1).mean())
            for metric, name in zip(_SHARES, ('model', 'projected', 'labels'), strict=True)
        }
        rules = [
            {'rule': rule.name, 'applies': int(applied[:, r].sum())}
            | {name: int(rows[:, r].sum()) for name, rows in broken.items()}
            for r, rule in enumerate(data.rules)
        ]
        header = ('rule', 'applies to', 'the model breaks it', 'with the rules applied', 'the labels break it')
        line = (
            f'{"rules":<16} broken by {shares["rule_violations"]:.1%} of the predictions, '
            f'{shares["rule_violations_projected"]:.1%} with the rules applied, {shares["rule_violations_labels"]:.1%} '
            'of the labels'
        )
        return dataclasses.replace(
            measured,
            metrics={**measured.metrics, **shares},
            details={**measured.details, 'rules': rules},
            lines=[*measured.lines, line],
            tables={**measured.tables, 'Rules': [header, *(tuple(map(str, rule.values())) for rule in rules)]},
        )


def _predictions(
    data: Any, scores: Sequence[np.ndarray], strength: float
) -> tuple[list[Sequence[str]], list[Sequence[str]]]:
    """Return the labels of the held-out examples that the model predicts, and the likeliest with the rules applied."""
    examples, names = data.validation_examples, data.labels
    features = data.features(examples)
    plain: list[Sequence[str]] = []
    projected: list[Sequence[str]] = []
    for row, scores_of_row in enumerate(scores):
        own = {name: values[row] for name, values in features.items()}
        if data.is_tagger:
            at = np.flatnonzero(own['rule_words'])  # the row of scores ends with its group's longest
            log_p_WC = log_softmax(scores_of_row[at], axis=-1)
            with_rules = log_p_WC - strength * own['rule_penalties'][at] if 'rule_penalties' in own else log_p_WC
            chosen = [log_p_WC.argmax(axis=-1), viterbi(with_rules, -strength * data.transitions)]
        elif data.is_exclusive:
            log_p_C = log_softmax(scores_of_row)
            chosen = [np.array([x.argmax()]) for x in (log_p_C, log_p_C - strength * own['rule_penalties'])]
        else:
            chosen = _sets(scores_of_row, own['rule_labels'], own['rule_penalties'], strength)
        for found, ids in zip((plain, projected), chosen, strict=True):
            found.append([names[c] for c in ids])
    return plain, projected


def _sets(scores_C: np.ndarray, ids_M: np.ndarray, penalties_S: np.ndarray, strength: float) -> list[np.ndarray]:
    """Return the ids of the labels that hold, without and with rules."""
    bits_SM = np.arange(len(penalties_S))[:, None] >> np.arange(len(ids_M)) & 1
    signs_SM = np.where(bits_SM, 1, -1)
    log_q_S = log_expit(signs_SM * scores_C[ids_M]).sum(axis=-1) - strength * penalties_S
    has_C = scores_C > 0
    with_rules_C = has_C.copy()
    with_rules_C[ids_M] = bits_SM[log_q_S.argmax()] > 0
    return [np.flatnonzero(has_C), np.flatnonzero(with_rules_C)]


def viterbi(scores_WC: np.ndarray, transitions_CC: np.ndarray) -> np.ndarray:
    """Return the tags with the largest sum of scores and transitions, int [W].

    Args:
      scores_WC: scores of the tags of each word.
      transitions_CC: scores of each tag after another one, [C + 1, C]; the last row is for the first word.
    """
    if not len(scores_WC):
        return np.zeros(0, int)
    best_C = transitions_CC[-1] + scores_WC[0]
    back = []
    for scores_C in scores_WC[1:]:
        through_CC = best_C[:, None] + transitions_CC[:-1]
        back.append(through_CC.argmax(axis=0))
        best_C = through_CC.max(axis=0) + scores_C
    tags = [int(best_C.argmax())]
    for before_C in reversed(back):
        tags.append(int(before_C[tags[-1]]))
    return np.array(tags[::-1])
