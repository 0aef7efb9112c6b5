"""What a run carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from palm_jax.models.palm import PaLM
from palm_jax.training.optimizers import Optimizer


@flax.struct.dataclass
class TrainState:
    """The whole state of training; the data's position and all randomness follow from `step`.

    Attributes:
      step: int32, steps taken.
      params: the model's parameters.
      opt_state: the optimizer's.
    """

    step: jax.Array
    params: Any
    opt_state: Any


def init_params(model: PaLM, rng: jax.Array) -> Any:
    """The model's initial parameters, boxed with the logical axes they were born with."""
    return model.init(rng, jnp.zeros((1, 8), jnp.int32), method='features')['params']


def init_state(model: PaLM, optimizer: Optimizer, rng: jax.Array) -> TrainState:
    """A state at step 0. Every leaf that has a parameter's shape carries its logical axes."""
    params = init_params(model, rng)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))


def unbox(state: TrainState) -> TrainState:
    """Drops the logical axes, leaving arrays (or their shapes)."""
    boxed = nn.meta.AxisMetadata
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, boxed) else leaf,
        state,
        is_leaf=lambda leaf: isinstance(leaf, boxed),
    )
