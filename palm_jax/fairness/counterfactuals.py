"""What a model makes of texts that differ only in the group that they name: gaps of probabilities, and flips.

A gap is the difference of the groups' mean probabilities of a label; texts of one context are equal but for the group's
words, so nothing else differs. A flip is a pair of texts of one context with different decisions. Flips inside a group
show how much of them any other word would cause, such as another name of the same group.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from palm_jax.errors import UserError
from palm_jax.fairness.templates import Filled

_BOOTSTRAPS = 500
_SHOWN = 10  # examples of flips


@dataclasses.dataclass(frozen=True)
class LabelGap:
    """How far groups are apart in one label.

    Attributes:
      label: name of the label; empty for the number that a model predicts.
      means: mean probability of the label, or mean number, by group.
      value: difference of the groups that are farthest apart.
      low: lower end of its 95% bootstrap interval, over contexts.
      high: upper end of its interval.
      lowest: group with the lowest mean.
      highest: group with the highest mean.
    """

    label: str
    means: Mapping[str, float]
    value: float
    low: float
    high: float
    lowest: str
    highest: str


@dataclasses.dataclass(frozen=True)
class Flips:
    """Pairs of texts with different decisions.

    Attributes:
      groups: both groups, or twice the same one.
      pairs: number of pairs of texts of one context.
      share: share of the pairs whose decisions differ.
    """

    groups: tuple[str, str]
    pairs: int
    share: float


@dataclasses.dataclass(frozen=True)
class Counterfactuals:
    """What was found about a set of templates.

    Attributes:
      name: name of the set.
      counts: number of texts by group.
      contexts: number of contexts.
      gaps: gaps by label, the largest first; empty for a model that writes answers.
      between: flips between each two groups; empty for numbers.
      within: flips inside each group with several texts of a context.
      examples: flips between groups, as {'groups', 'texts', 'predicted'}.
    """

    name: str
    counts: Mapping[str, int]
    contexts: int
    gaps: tuple[LabelGap, ...]
    between: tuple[Flips, ...]
    within: tuple[Flips, ...]
    examples: tuple[dict[str, Any], ...]

    @property
    def flips(self) -> float | None:
        """Share of all pairs of texts of different groups whose decisions differ; None for numbers."""
        return _share(self.between)

    @property
    def flips_within(self) -> float | None:
        """Share of all pairs of texts of one group whose decisions differ; None without such pairs."""
        return _share(self.within)


def _share(found: Sequence[Flips]) -> float | None:
    pairs = sum(f.pairs for f in found)
    return sum(f.share * f.pairs for f in found) / pairs if pairs else None


def compare(name: str, filled: Sequence[Filled], predictions: Sequence[Mapping[str, Any]], seed: int = 0):
    """Compare the groups of a set of templates.

    Args:
      name: name of the set.
      filled: its texts.
      predictions: what the model predicts for each: `predicted` and, of classes, `probabilities`; see
        `Predictor.to_json`.
      seed: seed of the bootstrap.

    Returns:
      `Counterfactuals`.

    Raises:
      UserError: two groups never have a context in common.
    """
    groups = list(dict.fromkeys(text.group for text in filled))
    if len(groups) < 2:
        raise UserError(f'{name}: there is one group only; two are needed.')
    rows: dict[tuple[int, str], list[int]] = collections.defaultdict(list)
    for row, text in enumerate(filled):
        rows[text.context, text.group].append(row)
    contexts = list(dict.fromkeys(text.context for text in filled))
    values = _values(predictions)
    gaps = [
        _gap(label, np.array([[of_label[rows[c, g]].mean() for g in groups] for c in contexts]), groups, seed)
        for label, of_label in values.items()
    ]
    between, within, examples = [], [], []
    if not isinstance(predictions[0]['predicted'], float):
        decisions = [_decision(p['predicted']) for p in predictions]
        for pair in itertools.combinations_with_replacement(groups, 2):
            is_within = pair[0] == pair[1]
            pairs = [
                (i, j)
                for c in contexts
                for i, j in (
                    itertools.combinations(rows[c, pair[0]], 2)
                    if is_within
                    else itertools.product(rows[c, pair[0]], rows[c, pair[1]])
                )
            ]
            flipped = [(i, j) for i, j in pairs if decisions[i] != decisions[j]]
            if pairs:
                (within if is_within else between).append(Flips(pair, len(pairs), len(flipped) / len(pairs)))
            if not is_within:
                examples += [_example(filled, predictions, *numbers) for numbers in flipped[:_SHOWN]]
    counts = collections.Counter(text.group for text in filled)
    gaps.sort(key=lambda gap: -gap.value)
    shown = tuple(examples[:: max(1, len(examples) // _SHOWN)][:_SHOWN])
    return Counterfactuals(name, dict(counts), len(contexts), tuple(gaps), tuple(between), tuple(within), shown)


def _values(predictions: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the probability of each label for each text, or the number, [T] by label."""
    if 'probabilities' in predictions[0]:
        return {
            label: np.array([p['probabilities'][label] for p in predictions], float)
            for label in predictions[0]['probabilities']
        }
    if isinstance(predictions[0]['predicted'], float):
        return {'': np.array([p['predicted'] for p in predictions], float)}
    return {}


def _decision(predicted: Any) -> Any:
    return tuple(sorted(predicted)) if isinstance(predicted, list) else predicted


def _gap(label: str, means_CG: np.ndarray, groups: Sequence[str], seed: int) -> LabelGap:
    means = means_CG.mean(axis=0)
    rng = np.random.default_rng(seed)
    drawn = [means_CG[rng.integers(0, len(means_CG), len(means_CG))].mean(axis=0) for _ in range(_BOOTSTRAPS)]
    low, high = np.quantile(np.ptp(drawn, axis=1), (0.025, 0.975))
    by_group = dict(zip(groups, means.tolist(), strict=True))
    ends = groups[int(means.argmin())], groups[int(means.argmax())]
    return LabelGap(label, by_group, float(np.ptp(means)), float(low), float(high), *ends)


def _example(filled: Sequence[Filled], predictions: Sequence[Mapping[str, Any]], *numbers: int) -> dict[str, Any]:
    return {
        'groups': [filled[i].group for i in numbers],
        'texts': [filled[i].text for i in numbers],
        'predicted': [predictions[i]['predicted'] for i in numbers],
    }
