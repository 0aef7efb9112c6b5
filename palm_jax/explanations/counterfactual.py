"""Counterfactuals: the fewest words without which a decision would be another one.

The words are taken away one after the other, each time the one whose absence costs the label most, until the decision
changes; words that turn out not to be needed are put back (greedy search with pruning, as in Martens and Provost 2014,
"Explaining data-driven document classifications"). What is found cannot be made smaller by putting back one word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from palm_jax.explanations.explainable import Explainable
from palm_jax.explanations.scorer import Scorer


@dataclasses.dataclass(frozen=True)
class Counterfactual:
    """Words without which a decision changes.

    Attributes:
      removed: numbers of the words.
      value: margin of the decision without them, below 0.
      instead: label, or first tag of the entity, that the model decides without them; None where a label is only left
        out, because labels do not exclude one another.
    """

    removed: tuple[int, ...]
    value: float
    instead: str | None = None


def counterfactual(scorer: Scorer, row: Explainable, most: int) -> Counterfactual | None:
    """Return the fewest words, by greedy search, without which the model would decide otherwise.

    Args:
      scorer: computes values.
      row: row to explain.
      most: most words that are taken away.

    Returns:
      None if the label is not what the model decides, if `most` words do not suffice, or if nothing is decided: for a
      number, or an answer.
    """
    if row.output.decision is None:
        return None
    row = dataclasses.replace(row, output=row.output.decision)
    value = float(scorer.values([row])[0])
    removed: list[int] = []
    while value >= 0 and len(removed) < min(most, len(row.words)):
        left = [word for word in range(len(row.words)) if word not in removed]
        values = _without(scorer, row, [[*removed, word] for word in left])
        best = int(np.argmin(values))
        removed, value = [*removed, left[best]], float(values[best])
    if value >= 0 or not removed:
        return None
    while len(removed) > 1:
        values = _without(scorer, row, [[w for w in removed if w != word] for word in removed])
        best = int(np.argmin(values))
        if values[best] >= 0:
            break
        removed, value = [w for w in removed if w != removed[best]], float(values[best])
    return Counterfactual(tuple(sorted(removed)), value, _decision(scorer, row.without(removed)))


def _decision(scorer: Scorer, row: Explainable) -> str | None:
    """Return the label with the highest score; None where labels do not exclude one another."""
    if not row.labels:
        return None
    of_labels = [row.output.of_label(label, i, len(row.labels)) for i, label in enumerate(row.labels)]
    values = scorer.values([dataclasses.replace(row, output=output) for output in of_labels], 'counterfactuals')
    return row.labels[int(np.argmax(values))]


def _without(scorer: Scorer, row: Explainable, sets: Sequence[Collection[int]]) -> np.ndarray:
    return scorer.values([row.without(some) for some in sets], 'counterfactuals')
