"""How embeddings are spread: alignment and uniformity (Wang and Isola, arXiv 2005.10242)."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist

_MOST = 2000  # texts between all of which distances are computed


def alignment(x_ED: np.ndarray, y_ED: np.ndarray) -> float:
    """Return the mean squared distance E‖x − y‖² of texts and their positives; lower is better.

    Args:
      x_ED: normalized embeddings.
      y_ED: normalized embeddings of the positives, in the same order.
    """
    return float(np.square(x_ED.astype(np.float64) - y_ED).sum(axis=1).mean())


def uniformity(x_ED: np.ndarray) -> float:
    """Return log E exp(−2·‖x − y‖²) over all pairs of the first 2,000 texts; lower is better, −4 the limit for large D.

    Args:
      x_ED: normalized embeddings of at least two texts; one text has a uniformity of 0.
    """
    distances = pdist(x_ED[:_MOST].astype(np.float64), 'sqeuclidean')
    return float(np.log(np.exp(-2 * distances).mean())) if len(distances) else 0.0
