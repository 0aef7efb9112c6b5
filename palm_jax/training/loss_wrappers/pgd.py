"""Projected gradient descent (Madry et al., arXiv 1706.06083) on embedded inputs: the worst of a ball."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from palm_jax.bounds import AtLeast, checked
from palm_jax.training.loss_wrappers.adversary import Adversary, project, unit


@checked
@dataclasses.dataclass(frozen=True)
class PGD(Adversary):
    """L(x) + λ·L(x + δ_K), with δ_0 = 0 and δ_{t+1} = Π_{‖δ‖₂ ≤ ε}(δ_t + α·g_t / ‖g_t‖₂), g_t = ∇_δ L(x + δ_t).

    K + 1 passes; the parameters have a gradient in the first and the last.

    Attributes:
      steps: number K of ascents.
      step_size: length α of an ascent.
      epsilon: largest norm ε of a row's perturbation.
      weight: weight λ of the adversarial loss; 0 trains without it.
    """

    steps: Annotated[int, AtLeast(1)] = 3
    step_size: Annotated[float, AtLeast(0)] = 0.3
    epsilon: Annotated[float, AtLeast(0)] = 1.0
    weight: Annotated[float, AtLeast(0)] = 1.0

    @property
    def weights(self):
        """The clean pass, ascents without a gradient for the parameters, and the adversarial pass."""
        return (1.0, *(self.steps - 1) * (0.0,), self.weight)

    @property
    def is_off(self):
        """Whether λ is 0."""
        return not self.weight

    def ascend(self, delta_BLD, gradient_BLD):
        """Return the projection of δ + α·g / ‖g‖₂."""
        return project(delta_BLD + self.step_size * unit(gradient_BLD), self.epsilon)
