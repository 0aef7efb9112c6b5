"""Texts that differ from one another and from what is labelled: core-sets, and k-means++ on gradients.

Both need the distance of every text to one other at a time, so that memory grows with the number of texts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

_ROWS = 4096
Track = Callable[[Iterable[int], int], Iterable[int]]


class Chosen(NamedTuple):
    """Numbers of the chosen texts in order, and the distance, or another score, of each at the time of its choice."""

    rows: list[int]
    distances: list[float]


def _untracked(items: Iterable[int], total: int) -> Iterable[int]:
    del total
    return items


def k_center_greedy(
    x_ND: np.ndarray, centers_MD: np.ndarray, count: int, rng: np.random.Generator, track: Track = _untracked
) -> Chosen:
    """Choose one after another the text that is the farthest from all that are labelled or chosen.

    A core-set (Sener and Savarese 2018, arXiv 1708.00489, algorithm 1): argmax_i min_j ‖x_i − x_j‖; the largest
    distance that is left is at most twice the smallest that any choice could leave.

    Args:
      x_ND: embeddings of the texts.
      centers_MD: embeddings of the labelled texts; without any, the first choice is random.
      count: number of texts to choose, at most N.
      rng: source of the first choice.
      track: progress bar: a function of items and their number.

    Returns:
      The choice; distances are Euclidean, NaN for a first choice without centers.
    """
    squared_N = np.einsum('nd,nd->n', x_ND, x_ND, dtype=np.float64)

    def distances(center_D: np.ndarray) -> np.ndarray:
        return np.maximum(squared_N + center_D @ center_D - 2.0 * (x_ND @ center_D), 0)

    nearest_N = _nearest(x_ND, squared_N, centers_MD)
    chosen = Chosen([], [])
    for number in track(range(count), count):
        is_free = not number and not len(centers_MD)
        i = int(rng.integers(len(x_ND))) if is_free else int(nearest_N.argmax())
        chosen.rows.append(i)
        chosen.distances.append(float('nan') if is_free else float(np.sqrt(nearest_N[i])))
        nearest_N = np.minimum(nearest_N, distances(x_ND[i]))
        nearest_N[i] = -1  # also where others are at distance 0
    return chosen


def k_means_plus_plus(
    residuals_NC: np.ndarray,
    features_ND: np.ndarray,
    count: int,
    rng: np.random.Generator,
    track: Track = _untracked,
) -> Chosen:
    """Choose texts by k-means++ on the gradients of a last layer: uncertain ones that differ from one another.

    BADGE (Ash et al. 2020, arXiv 1906.03671): g = (p − y) ⊗ h is the gradient of the loss with the model's own
    prediction y as the label. The first text has the largest ‖g‖; each next one is drawn with a probability in
    proportion to its squared distance to the nearest chosen one (Arthur and Vassilvitskii 2007). The products
    ⟨g_i, g_j⟩ = ⟨p_i − y_i, p_j − y_j⟩·⟨h_i, h_j⟩ need no array [N, C·D].

    Args:
      residuals_NC: p − y of each text.
      features_ND: h, the inputs of the last layer.
      count: number of texts to choose, at most N.
      rng: source of the draws.
      track: progress bar: a function of items and their number.

    Returns:
      The choice; the first distance is ‖g‖.
    """
    a_NC, h_ND = residuals_NC, features_ND
    squared_N = np.einsum('nc,nc->n', a_NC, a_NC, dtype=np.float64) * np.einsum(
        'nd,nd->n', h_ND, h_ND, dtype=np.float64
    )
    chosen, nearest_N, is_left_N = Chosen([], []), np.full(len(a_NC), np.inf), np.ones(len(a_NC), bool)
    for number in track(range(count), count):
        total = nearest_N.sum()
        if not number:
            i = int(squared_N.argmax())
        elif total > 0:
            i = int(rng.choice(len(nearest_N), p=nearest_N / total))
        else:  # what is left equals what is chosen
            i = int(rng.choice(np.flatnonzero(is_left_N)))
        chosen.rows.append(i)
        chosen.distances.append(float(np.sqrt(nearest_N[i] if number else squared_N[i])))
        products_N = (a_NC @ a_NC[i]).astype(np.float64) * (h_ND @ h_ND[i])
        nearest_N = np.minimum(nearest_N, np.maximum(squared_N + squared_N[i] - 2 * products_N, 0))
        is_left_N[i] = False
        nearest_N[~is_left_N] = 0
    return chosen


def _nearest(x_ND: np.ndarray, squared_N: np.ndarray, centers_MD: np.ndarray) -> np.ndarray:
    """Return the squared distance of each row to its nearest center, infinite without centers."""
    nearest_N = np.full(len(x_ND), np.inf)
    for first in range(0, len(centers_MD), _ROWS):
        part = centers_MD[first : first + _ROWS]
        of_part = np.einsum('md,md->m', part, part, dtype=np.float64)
        for row in range(0, len(x_ND), _ROWS):
            rows = slice(row, row + _ROWS)
            found = (squared_N[rows, None] + of_part - 2.0 * (x_ND[rows] @ part.T)).min(axis=1)
            nearest_N[rows] = np.minimum(nearest_N[rows], np.maximum(found, 0))
    return nearest_N
