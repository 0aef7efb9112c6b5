"""Pseudo-labels (Lee 2013, "Pseudo-Label: the simple and efficient semi-supervised learning method")."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, AtMost, checked
from palm_jax.errors import UserError
from palm_jax.models.saturation import limited
from palm_jax.training.loss_wrappers.unlabelled import Unlabelled


def cross_entropy_of_confident(weak_UC: jax.Array, strong_UC: jax.Array, threshold: float):
    """Cross-entropy of the likeliest class of the weak view on the strong one, where its probability is high enough."""
    confidence_U = jax.nn.softmax(weak_UC, axis=-1).max(axis=-1)
    confident_U, labels_U = confidence_U >= threshold, weak_UC.argmax(axis=-1)
    log_p_UC = jax.nn.log_softmax(limited(strong_UC), axis=-1)
    loss_U = -jnp.take_along_axis(log_p_UC, labels_U[:, None], axis=-1)[:, 0]
    return jnp.where(confident_U, loss_U, 0.0), confident_U


@checked
@dataclasses.dataclass(frozen=True)
class PseudoLabel(Unlabelled):
    """L + λ(t)·1/U·Σ 1[max p(x) ≥ τ]·CE(argmax p(x), p(x)): the model's own classes, with a weight that grows.

    λ(t) is 0 before `begin`, grows linearly, and is λ from `end`.

    Attributes:
      weight: weight λ at the end; 0 trains without unlabelled texts.
      threshold: probability τ from which a class is believed.
      begin: share of the run's steps after which λ begins to grow.
      end: share of the run's steps after which it has grown.
      total_steps: number of steps of the run.
    """

    weight: Annotated[float, AtLeast(0)] = 1.0
    threshold: Annotated[float, AtLeast(0), AtMost(1)] = 0.95
    begin: Annotated[float, AtLeast(0), AtMost(1)] = 0.1
    end: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    total_steps: Annotated[int, AtLeast(1)] = 1000

    def __post_init__(self) -> None:
        """Refuse an end before the beginning."""
        if self.end < self.begin:
            raise UserError(f'PSEUDO_LABEL_END is {self.end}, before PSEUDO_LABEL_BEGIN = {self.begin}.')

    def weight_at(self, step):
        """Return λ(t)."""
        begin, end = self.begin * self.total_steps, self.end * self.total_steps
        growing = jnp.clip((step - begin) / max(end - begin, 1e-6), 0.0, 1.0)
        return self.weight * jnp.where(step >= end, 1.0, growing)

    def of_texts(self, weak_UC, strong_UC):
        """Return the cross-entropy of the classes that the model is sure of."""
        return cross_entropy_of_confident(weak_UC, strong_UC, self.threshold)
