"""Evaluation on the held-out part of the data."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from palm_jax.partitioning import shard_batch
from palm_jax.training import metrics as metrics_lib
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.interfaces import Data
from palm_jax.training.metrics import Metrics
from palm_jax.training.result import EvaluationInput
from palm_jax.training.state import TrainState


def evaluate(
    eval_step: Callable[[dict[str, Any]], Metrics], batches: Iterable[Mapping[str, np.ndarray]], mesh: Mesh
) -> Metrics:
    """Sum the metrics of all batches.

    Args:
      eval_step: metrics of one batch on the mesh.
      batches: features [B, ...] on the host.
      mesh: devices over whose `data` axis a batch is split.
    """
    progress = tqdm(batches, desc='evaluating', unit=' batches', leave=False)
    return metrics_lib.total([eval_step(shard_batch(batch, mesh)) for batch in progress])


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The held-out part of a run's data, and how a state of the run is evaluated on it.

    Attributes:
      eval_step: jitted; metrics of a state and a batch, see `step.eval_step`.
      model: the adapted model.
      data: the run's data.
      mesh: devices of the run.
      batch_sizes: sequences per step; a batch is as large as in the last step taken.
    """

    eval_step: Callable[[TrainState, dict[str, Any]], Metrics]
    model: Any
    data: Data
    mesh: Mesh
    batch_sizes: BatchSizes

    def metric_names(self, state: TrainState) -> set[str]:
        """Names of the metrics of the loss; nothing is computed."""
        batch = next(iter(self.data.validation(self.batch_sizes.at(0))))
        return set(jax.eval_shape(self.eval_step, state, batch))

    def metrics(self, state: TrainState, step: int, num_batches: int | None = None) -> Metrics:
        """Sum the metrics of the first batches, or of all for None, after `step` steps."""
        batches = itertools.islice(self.data.validation(self.batch_sizes.at(step - 1)), num_batches)
        return evaluate(functools.partial(self.eval_step, state), batches, self.mesh)

    def inputs(self, state: TrainState, step: int) -> EvaluationInput:
        """What a reporter measures: the model after `step` steps, with the data."""
        return EvaluationInput(
            model=self.model,
            params=state.all_params,
            data=self.data,
            mesh=self.mesh,
            batch_size=self.batch_sizes.at(step - 1),
            sequences_seen=self.batch_sizes.before(step),
            evaluate=lambda: self.metrics(state, step),
        )
