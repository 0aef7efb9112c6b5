"""How uncertain a prediction is: larger scores are worth a label more.

A prediction is a distribution over C classes (exclusive), or C independent probabilities (a set of labels), which are a
distribution over the 2^C sets.
"""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy


def entropy(p: np.ndarray, is_exclusive: bool = True) -> np.ndarray:
    """Return H(p) = −Σ_c p_c·log p_c in nats (Shannon 1948; Settles and Craven 2008).

    Of a set of labels it is the sum of the entropies of its C independent decisions.

    Args:
      p: probabilities [..., C].
      is_exclusive: whether the classes exclude one another.
    """
    return -(xlogy(p, p) if is_exclusive else xlogy(p, p) + xlogy(1 - p, 1 - p)).sum(axis=-1)


def least_confidence(p: np.ndarray, is_exclusive: bool = True) -> np.ndarray:
    """Return 1 − p₁, with p₁ the probability of the prediction (Lewis and Gale 1994); see `entropy`."""
    return 1 - _two_likeliest(p, is_exclusive)[0]


def margin(p: np.ndarray, is_exclusive: bool = True) -> np.ndarray:
    """Return 1 − (p₁ − p₂) of the two likeliest classes, or sets of labels (Scheffer et al. 2001); see `entropy`."""
    first, second = _two_likeliest(p, is_exclusive)
    return 1 - (first - second)


def bald(p: np.ndarray, is_exclusive: bool = True) -> np.ndarray:
    """Return I = H(E p) − E H(p), what a label is expected to say about the weights, in nats.

    Bayesian active learning by disagreement (Houlsby et al. 2011, arXiv 1112.5745), with dropout masks as draws of the
    weights (Gal et al. 2017, arXiv 1703.02910). Of a set of labels it is the sum over its C decisions.

    Args:
      p: probabilities of S draws, [S, ..., C].
      is_exclusive: whether the classes exclude one another.
    """
    return entropy(p.mean(axis=0), is_exclusive) - entropy(p, is_exclusive).mean(axis=0)


def _two_likeliest(p: np.ndarray, is_exclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of the two likeliest classes, or of the two likeliest sets of labels."""
    if is_exclusive:
        if p.shape[-1] == 1:  # a single class, which is certain
            return p[..., 0], 0 * p[..., 0]
        second, first = np.moveaxis(np.partition(p, p.shape[-1] - 2, axis=-1)[..., -2:], -1, 0)
        return first, second
    likelier = np.maximum(p, 1 - p)
    first = likelier.prod(axis=-1)  # the second set differs in the decision that is the closest
    return first, first * ((1 - likelier) / likelier).max(axis=-1)
