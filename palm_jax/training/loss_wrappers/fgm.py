"""Fast gradient method (Miyato et al., arXiv 1605.07725): one perturbation along the gradient."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from palm_jax.bounds import AtLeast, checked
from palm_jax.training.loss_wrappers.adversary import Adversary, unit


@checked
@dataclasses.dataclass(frozen=True)
class FGM(Adversary):
    """L(x) + λ·L(x + ε·g / ‖g‖₂), g = ∇ₓ L(x): one pass more than without.

    Attributes:
      epsilon: norm ε of a row's perturbation.
      weight: weight λ of the adversarial loss; 0 trains without it.
    """

    epsilon: Annotated[float, AtLeast(0)] = 1.0
    weight: Annotated[float, AtLeast(0)] = 1.0

    @property
    def weights(self):
        """The clean pass, and the adversarial one."""
        return (1.0, self.weight)

    @property
    def is_off(self):
        """Whether λ is 0."""
        return not self.weight

    def ascend(self, delta_BLD, gradient_BLD):
        """Return ε·g / ‖g‖₂."""
        return self.epsilon * unit(gradient_BLD)
