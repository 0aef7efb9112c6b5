"""FreeLB (Zhu et al., arXiv 1909.11764): every ascent also trains the parameters."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from palm_jax.bounds import AtLeast, checked
from palm_jax.training.loss_wrappers.adversary import Adversary, project, unit


@checked
@dataclasses.dataclass(frozen=True)
class FreeLB(Adversary):
    """1/K · Σ_{t<K} L(x + δ_t), with δ_{t+1} = Π(δ_t + α·g_t / ‖g_t‖₂), g_t = ∇_δ L(x + δ_t).

    δ_0 is uniform in ±m / √(n·D) for a row of n tokens, so that its norm is about m / √3. There are K passes: the
    gradients of the parameters and of δ come from the same ones.

    With α and m of 0, x is not perturbed, and training is that without FreeLB.

    Attributes:
      steps: number K of passes.
      step_size: length α of an ascent (paper: 0.03 to 0.2).
      magnitude: size m of the first perturbation (paper: 0 to 0.6).
      max_norm: largest norm of a row's perturbation; 0 does not limit it.
    """

    steps: Annotated[int, AtLeast(1)] = 3
    step_size: Annotated[float, AtLeast(0)] = 0.1
    magnitude: Annotated[float, AtLeast(0)] = 0.1
    max_norm: Annotated[float, AtLeast(0)] = 0.0

    @property
    def weights(self):
        """1/K for each pass."""
        return (1.0 / self.steps,) * self.steps

    @property
    def is_off(self):
        """Whether no perturbation is ever other than 0."""
        return not (self.step_size or self.magnitude)

    def start(self, rng, is_token_BL1, d_model):
        """Return δ_0."""
        dims_B11 = jnp.maximum(is_token_BL1.sum(axis=1, keepdims=True), 1) * d_model
        uniform = jax.random.uniform(rng, (*is_token_BL1.shape[:2], d_model), jnp.float32, -1.0, 1.0)
        return uniform * is_token_BL1 * self.magnitude / jnp.sqrt(dims_B11.astype(jnp.float32))

    def ascend(self, delta_BLD, gradient_BLD):
        """Return δ + α·g / ‖g‖₂, projected if `max_norm` is above 0."""
        delta_BLD = delta_BLD + self.step_size * unit(gradient_BLD)
        return project(delta_BLD, self.max_norm) if self.max_norm else delta_BLD
