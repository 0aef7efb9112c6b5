"""How well held-out triples are predicted: the rank of the right entity among all, with hits@k and MRR."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

HITS = (1, 3, 10)


def rank(distances_E: np.ndarray, right: int, others: Collection[int] = ()) -> float:
    """Return the rank of the right entity among E, from 1.

    Entities at the same distance share the mean of their ranks, so that a model that gives all the same distance is
    no better than chance.

    Args:
      distances_E: distance of every entity, smaller is likelier.
      right: entity whose rank it is.
      others: other right answers, which are left out ("filtered", Bordes et al. 2013).
    """
    counts = np.ones(len(distances_E), bool)
    counts[[*others, right]] = False
    rest = distances_E[counts]
    return 1.0 + float((rest < distances_E[right]).sum()) + float((rest == distances_E[right]).sum()) / 2


def scores(ranks: Sequence[float]) -> dict[str, float]:
    """Return hits@k, the share of ranks up to k, and the mean reciprocal rank; NaN without ranks."""
    found = np.asarray(ranks, np.float64)
    if not len(found):
        return dict.fromkeys([*(f'hits_at_{k}' for k in HITS), 'mrr'], float('nan'))
    return {f'hits_at_{k}': float((found <= k).mean()) for k in HITS} | {'mrr': float((1 / found).mean())}


def by_chance(num_entities: int) -> Mapping[str, float]:
    """Return what a random order of the entities reaches on average."""
    hits = {f'hits_at_{k}': min(1.0, k / num_entities) for k in HITS}
    return hits | {'mrr': float((1 / np.arange(1, num_entities + 1)).mean())}
