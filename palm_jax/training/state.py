"""The state of training, which a run carries from step to step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from palm_jax.models.model import Model
from palm_jax.peft.trainable import Trainable, join
from palm_jax.training.loss_wrappers.wrapper import LossWrapper, anchor_of, state_of
from palm_jax.training.optimizers import Optimizer


@flax.struct.dataclass
class TrainState:
    """The whole state of training; the data's position and all randomness follow from `step`.

    Attributes:
      step: int32, number of steps taken.
      params: trained parameters.
      opt_state: state of the optimizer, for `params` alone.
      frozen: the model's other parameters, which do not change.
      anchor: what loss wrappers keep of the start of the run, which does not change either; empty without such.
      wrapper_state: what loss wrappers change from step to step; empty without such.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    frozen: Any = flax.struct.field(default_factory=dict)
    anchor: Any = flax.struct.field(default_factory=dict)
    wrapper_state: Any = flax.struct.field(default_factory=dict)

    @property
    def all_params(self) -> Any:
        """Every parameter of the model in one tree."""
        return join(self.params, self.frozen)


def init_params(model: Model, rng: jax.Array) -> Any:
    """Initialize the model's parameters, boxed with their logical axes.

    A loop over the layers has the same values as unrolled layers, of which every one would be traced and compiled.
    """
    model = model.clone(arch=dataclasses.replace(model.arch, unroll_layers=1))
    return model.init(rng, jnp.zeros((1, 8), jnp.int32), method='init_all')['params']


def init_state(
    model: Model,
    optimizer: Optimizer,
    rng: jax.Array,
    trainable: Trainable = Trainable(),
    wrappers: Sequence[LossWrapper] = (),
) -> TrainState:
    """Initialize the state at step 0. Every leaf that has a parameter's shape carries its logical axes."""
    return state_of_params(model, optimizer, init_params(model, rng), trainable, wrappers)


def state_of_params(
    model: Model,
    optimizer: Optimizer,
    params: Any,
    trainable: Trainable = Trainable(),
    wrappers: Sequence[LossWrapper] = (),
) -> TrainState:
    """Return the state at step 0 with given parameters."""
    trained, frozen = trainable.split(params)
    anchor = anchor_of(wrappers, model, params, trained)
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, trained, optimizer.init(trained), frozen, anchor, state_of(wrappers))


def unbox(state: Any) -> Any:
    """Remove the logical axes, leaving arrays (or their shapes)."""
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, nn.Partitioned) else leaf,
        state,
        is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned),
    )
