"""Whether attributions name the words that a model depends on (ERASER, DeYoung et al. 2020, arXiv 1911.03429).

Comprehensiveness is p(all words) − p(without the most important k%), sufficiency p(all words) − p(only the most
important k%), both averaged over k; p is the probability of what is explained. Good attributions have a high
comprehensiveness and a low sufficiency, compared with random ones. Of a number the absolute changes are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from palm_jax.explanations.explainable import Explainable
from palm_jax.explanations.scorer import Scorer

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)  # of the words, at least one of them
RANDOM = 'random'


class Faithfulness(NamedTuple):
    """Both averages, of one row and one attribution."""

    comprehensiveness: float
    sufficiency: float


def faithfulness(
    scorer: Scorer,
    rows: Sequence[Explainable],
    values: np.ndarray,
    attributions: Mapping[str, Sequence[np.ndarray]],
    num_random: int,
    seed: int = 0,
) -> list[dict[str, Faithfulness]]:
    """Return, for each row, the faithfulness of each attribution, and the mean of random ones as `random`.

    Args:
      scorer: computes values.
      rows: rows with at least one word each.
      values: value of the output of each row, float64 [N].
      attributions: contributions of the words of each row, by the name of the method.
      num_random: number of random rankings of the words of each row.
      seed: seed of the random rankings.
    """
    rng = np.random.default_rng(seed)
    rankings: list[list[tuple[str, np.ndarray]]] = []
    for number, row in enumerate(rows):
        of_row = [(name, _ranking(row, scores[number])) for name, scores in attributions.items()]
        of_row += [(RANDOM, rng.permutation(len(row.words))) for _ in range(num_random)]
        rankings.append(of_row)
    # Rankings share many subsets of words, and short texts all of them: each is computed once.
    wanted = {
        (number, removed): None
        for number, of_row in enumerate(rankings)
        for _, ranking in of_row
        for pair in _removals(ranking)
        for removed in pair
    }
    found = scorer.values([rows[number].without(removed) for number, removed in wanted], 'faithfulness')
    value_of = dict(zip(wanted, found, strict=True))
    results = []
    for number, (row, of_row) in enumerate(zip(rows, rankings, strict=True)):
        by_name: dict[str, list[Faithfulness]] = {}
        for name, ranking in of_row:
            drops = [
                [_drop(row, values[number], value_of[number, removed]) for removed in pair]
                for pair in _removals(ranking)
            ]
            by_name.setdefault(name, []).append(Faithfulness(*np.mean(drops, axis=0).tolist()))
        results.append({name: Faithfulness(*np.mean(all_of, axis=0).tolist()) for name, all_of in by_name.items()})
    return results


def _ranking(row: Explainable, words: np.ndarray) -> np.ndarray:
    """Return the words in order of importance: those that speak for a label, of a number those that matter."""
    importance = np.abs(words) if row.output.unit == 'number' else words
    return np.argsort(-importance, kind='stable')


def _removals(ranking: np.ndarray) -> list[tuple[frozenset[int], frozenset[int]]]:
    """Return for each share the words to remove for comprehensiveness and for sufficiency."""
    pairs = []
    for share in SHARES:
        count = max(1, math.ceil(share * len(ranking)))
        pairs.append((frozenset(ranking[:count].tolist()), frozenset(ranking[count:].tolist())))
    return pairs


def _drop(row: Explainable, whole: float, part: float) -> float:
    before, after = row.output.probability(whole), row.output.probability(part)
    return abs(whole - part) if before is None else before - after
