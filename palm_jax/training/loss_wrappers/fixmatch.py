"""FixMatch (Sohn et al., arXiv 2001.07685): the class of a text as it is, learned on a changed view of it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from palm_jax.bounds import AtLeast, AtMost, checked
from palm_jax.training.loss_wrappers.pseudo_label import cross_entropy_of_confident
from palm_jax.training.loss_wrappers.unlabelled import Unlabelled


@checked
@dataclasses.dataclass(frozen=True)
class FixMatch(Unlabelled):
    """L + λ·1/U·Σ 1[max p(x) ≥ τ]·CE(argmax p(x), p(A(x))), A(x) the changed text.

    Attributes:
      weight: weight λ (paper: 1); 0 trains without unlabelled texts.
      threshold: probability τ from which a class is believed (paper: 0.95).
    """

    weight: Annotated[float, AtLeast(0)] = 1.0
    threshold: Annotated[float, AtLeast(0), AtMost(1)] = 0.95

    def of_texts(self, weak_UC, strong_UC):
        """Return the cross-entropy of the classes that the model is sure of, on the changed texts."""
        return cross_entropy_of_confident(weak_UC, strong_UC, self.threshold)
